/**
 * The internet checksum once more, slowly and straight from RFC 1071, section 1: the judge
 * of src/wire/checksum.ts and of every packet that vuelo makes. It shares no code with src.
 */

/** One's complement sum of 16-bit words; an odd last byte is the high one of a word. */
export function referenceSum(bytes: Uint8Array): number {
  let total = 0n;
  for (let i = 0; i < bytes.length; i++) {
    total += i % 2 === 0 ? BigInt(bytes[i]) << 8n : BigInt(bytes[i]);
  }
  while (total > 0xffffn) total = (total >> 16n) + (total & 0xffffn);
  return Number(total);
}

/** The checksum field of bytes in which that field is 0. */
export function referenceChecksum(bytes: Uint8Array): number {
  return 0xffff - referenceSum(bytes);
}

/**
 * What is wrong with the checksums of an Ethernet frame of IPv4 or IPv6 with TCP, UDP,
 * ICMP or ICMPv6 and without extension headers; undefined if nothing is.
 */
export function checksumFault(frame: Uint8Array): string | undefined {
  const type = frame[12] << 8 | frame[13];
  if (type === 0x0800) return fault4(frame.subarray(14));
  if (type === 0x86dd) return fault6(frame.subarray(14));
  return undefined;
}

function fault4(packet: Uint8Array): string | undefined {
  const headerLength = (packet[0] & 0xf) * 4;
  if (referenceSum(packet.subarray(0, headerLength)) !== 0xffff) return "IPv4 header";
  const whole = packet.subarray(headerLength, packet[2] << 8 | packet[3]);
  return transportFault(packet[9], packet.subarray(12, 20), whole);
}

function fault6(packet: Uint8Array): string | undefined {
  const whole = packet.subarray(40, 40 + (packet[4] << 8 | packet[5]));
  return transportFault(packet[6], packet.subarray(8, 40), whole);
}

function transportFault(
  protocol: number,
  addresses: Uint8Array,
  whole: Uint8Array,
): string | undefined {
  if (protocol === 1) return referenceSum(whole) === 0xffff ? undefined : "ICMP";
  if (protocol === 17 && whole[6] === 0 && whole[7] === 0) {
    return addresses.length === 8 ? undefined : "UDP over IPv6 without a checksum";
  }
  const length = whole.length;
  const tail = [length >> 24, length >> 16 & 0xff, length >> 8 & 0xff, length & 0xff];
  const bytes = [...addresses, ...tail, 0, 0, 0, protocol, ...whole];
  const right = referenceSum(Uint8Array.from(bytes)) === 0xffff;
  return right ? undefined : `protocol ${protocol}`;
}
