/** Domain names in the wire form of RFC 1035, section 3.1, as DHCP options carry them. */

const MAX_NAME_SIZE = 255;
const MAX_LABEL_SIZE = 63;
/** Highest offset that a compression pointer can tell (RFC 1035, section 4.1.4). */
const MAX_POINTER = 0x3fff;

/**
 * `name` as labels and a zero byte. A dot at the end is allowed. Undefined for a name
 * that has no wire form: no label, an empty one, one of over 63 bytes, over 255 in all.
 */
export function encodeName(name: string): Uint8Array<ArrayBuffer> | undefined {
  const labels = splitLabels(name);
  if (labels === undefined) return undefined;
  const bytes: number[] = [];
  for (const label of labels) appendLabel(bytes, label);
  bytes.push(0);
  return Uint8Array.from(bytes);
}

/**
 * `names` one after the other, those without a wire form left out: DHCPv6 option 24
 * (RFC 3646, section 4), which allows no compression.
 */
export function encodeNames(names: readonly string[]): Uint8Array<ArrayBuffer> {
  const bytes: number[] = [];
  for (const name of names) {
    const encoded = encodeName(name);
    if (encoded !== undefined) bytes.push(...encoded);
  }
  return Uint8Array.from(bytes);
}

/**
 * `names` as {@link encodeNames} does, endings that came before replaced by pointers to
 * them: DHCP option 119 (RFC 3397, section 2). Offsets count from the first byte.
 */
export function encodeNamesCompressed(
  names: readonly string[],
): Uint8Array<ArrayBuffer> {
  const bytes: number[] = [];
  const offsets = new Map<string, number>();
  for (const name of names) {
    const labels = splitLabels(name);
    if (labels !== undefined) appendCompressed(bytes, labels, offsets);
  }
  return Uint8Array.from(bytes);
}

function appendCompressed(
  bytes: number[],
  labels: readonly string[],
  offsets: Map<string, number>,
): void {
  for (let i = 0; i < labels.length; i++) {
    const ending = labels.slice(i).join(".").toLowerCase();
    const offset = offsets.get(ending);
    if (offset !== undefined) {
      bytes.push(0xc0 | offset >> 8, offset & 0xff);
      return;
    }
    if (bytes.length <= MAX_POINTER) offsets.set(ending, bytes.length);
    appendLabel(bytes, labels[i]);
  }
  bytes.push(0);
}

function appendLabel(bytes: number[], label: string): void {
  const encoded = encodeLabel(label);
  bytes.push(encoded.length, ...encoded);
}

function encodeLabel(label: string): Uint8Array {
  return new TextEncoder().encode(label);
}

function splitLabels(name: string): string[] | undefined {
  const labels = (name.endsWith(".") ? name.slice(0, -1) : name).split(".");
  let size = 1;
  for (const label of labels) {
    const length = encodeLabel(label).length;
    if (length === 0 || length > MAX_LABEL_SIZE) return undefined;
    size += 1 + length;
  }
  return size <= MAX_NAME_SIZE ? labels : undefined;
}
