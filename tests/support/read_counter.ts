/** Guest memory that counts what is read of it through its windows. */
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { GuestRam } from "./mock_driver.ts";

class CountingView extends DataView<ArrayBuffer> {
  bytes = 0;

  #count(size: number): void {
    this.bytes += size;
  }
  override getUint8(at: number): number {
    this.#count(1);
    return super.getUint8(at);
  }
  override getUint16(at: number, little?: boolean): number {
    this.#count(2);
    return super.getUint16(at, little);
  }
  override getInt32(at: number, little?: boolean): number {
    this.#count(4);
    return super.getInt32(at, little);
  }
  override getUint32(at: number, little?: boolean): number {
    this.#count(4);
    return super.getUint32(at, little);
  }
}

/** Memory for a test, and the bytes that were read of its first GiB so far. */
export function countedMemory(): { memory: GuestMemory; bytesRead: () => number } {
  const memory = new GuestMemory(2 ** 30);
  new GuestRam(memory).close(); // from here on it has windows
  const [first] = memory.windows;
  const view = new CountingView(memory.buffer, first.byteOffset, first.byteLength);
  (memory.windows as DataView[])[0] = view;
  return { memory, bytesRead: () => view.bytes };
}
