/**
 * Writes a cpio archive in the "newc" format, which the kernel unpacks as initramfs (see
 * Documentation/driver-api/early-userspace/buffer-format.rst of Linux).
 */
const FILE = 0o100000;
const FOLDER = 0o040000;
const LINK = 0o120000;
const DEVICE = 0o020000;

/** An archive under construction. Folders are added before what they hold. */
export class CpioWriter {
  readonly #parts: Uint8Array[] = [];
  readonly #names = new Set<string>();
  readonly #encoder = new TextEncoder();
  #inode = 1;

  /** Adds a regular file; `path` has no leading slash. */
  file(path: string, data: Uint8Array | string, mode = 0o644): void {
    this.#add(
      path,
      FILE | mode,
      typeof data === "string" ? this.#encoder.encode(data) : data,
    );
  }

  /** Adds a symbolic link at `path` to `target`. */
  link(path: string, target: string): void {
    this.#add(path, LINK | 0o777, this.#encoder.encode(target));
  }

  /** Adds a folder, unless it is there. */
  folder(path: string, mode = 0o755): void {
    if (!this.#names.has(path)) this.#add(path, FOLDER | mode, new Uint8Array());
  }

  /** Adds a character device. */
  device(path: string, major: number, minor: number): void {
    this.#add(path, DEVICE | 0o600, new Uint8Array(), major, minor);
  }

  /** Ends the archive and returns its bytes. */
  finish(): Uint8Array<ArrayBuffer> {
    this.#entry("TRAILER!!!", 0, new Uint8Array(), 0, 0);
    const size = this.#parts.reduce((sum, part) => sum + part.length, 0);
    const archive = new Uint8Array(size);
    let at = 0;
    for (const part of this.#parts) {
      archive.set(part, at);
      at += part.length;
    }
    return archive;
  }

  #add(path: string, mode: number, data: Uint8Array, major = 0, minor = 0): void {
    if (this.#names.has(path)) return;
    const parent = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    if (parent !== "") this.folder(parent);
    this.#names.add(path);
    this.#entry(path, mode, data, major, minor);
  }

  #entry(
    path: string,
    mode: number,
    data: Uint8Array,
    major: number,
    minor: number,
  ): void {
    const name = this.#encoder.encode(path + "\0");
    const fields = [
      this.#inode++,
      mode,
      0, // owner
      0, // group
      1, // links
      0, // time of change: none, so that equal input makes an equal archive
      data.length,
      0, // device, major and minor
      0,
      major,
      minor,
      name.length,
      0, // checksum, not used in this format
    ];
    const hex = fields.map((field) => field.toString(16).padStart(8, "0")).join("");
    this.#parts.push(this.#encoder.encode("070701" + hex), name);
    this.#pad(110 + name.length);
    this.#parts.push(data);
    this.#pad(data.length);
  }

  #pad(size: number): void {
    if (size % 4 !== 0) this.#parts.push(new Uint8Array(4 - size % 4));
  }
}
