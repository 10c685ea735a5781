import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { SyscallError } from "../../ffi/errno.ts";
import { close, eventfdCreate } from "../../ffi/event.ts";
import { addSeals, F_SEAL_GROW, F_SEAL_SHRINK, memfdCreate } from "../../ffi/memory.ts";
import { MemoryError } from "./file_mapper.ts";
import { GuestMemory, type RegionRequest } from "./guest_memory.ts";

const PAGE = 4096;
const memory = new GuestMemory(2 ** 34);

function withFile(size: number, body: (fd: number) => void): void {
  const fd = memfdCreate("guest", size);
  try {
    body(fd);
  } finally {
    close(fd);
    memory.clear();
  }
}

function region(guestAddress: number, size: number, mmapOffset = 0): RegionRequest {
  return { guestAddress, size, userAddress: 0x7f00_0000_0000 + guestAddress, mmapOffset };
}

/** Permissions of the mapping that holds an address, from /proc/self/maps. */
function permissions(address: number): string {
  for (const line of Deno.readTextFileSync("/proc/self/maps").split("\n")) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(line);
    if (match === null) continue;
    const [, from, to, mode] = match;
    if (address >= parseInt(from, 16) && address < parseInt(to, 16)) return mode;
  }
  return "none";
}

Deno.test("translate() accepts exactly the ranges within one region", () => {
  withFile(8 * PAGE, (fd) => {
    const regions = [region(0x1000, 2 * PAGE), region(0x10_0000_0000, PAGE, 4 * PAGE)];
    memory.setTable(regions, [fd, fd]);
    const low = memory.translate(0x1000, 2 * PAGE);
    const high = memory.translate(0x10_0000_0000, PAGE);
    assert(low > 0 && high > 0);
    assertEquals(memory.translate(0x1001, 2 * PAGE - 1), low + 1);
    assertEquals(memory.translate(0x2fff, 1), low + 0x1fff);
    for (
      const [address, length] of [
        [0xfff, 1],
        [0xfff, 2],
        [0x1000, 2 * PAGE + 1],
        [0x2fff, 2],
        [0x3000, 1],
        [0x3000, 0],
        [0xf_ffff_ffff, 1],
        [0x10_0000_1000, 1],
        [2 ** 53 - 1, 2 ** 32],
      ]
    ) assertEquals(memory.translate(address, length), -1, `${address}+${length}`);
    assertEquals(memory.contiguous(0x1010), 2 * PAGE - 0x10);
    assertEquals(memory.contiguous(0x3000), 0);
    assertEquals(memory.translateUser(0x7f00_0000_1001, 8), low + 1);
    assertEquals(memory.translateUser(0x1001, 8), -1);
  });
});

Deno.test("before and after each region lie two MiB without memory", () => {
  const size = 2 ** 21; // as mappings are aligned: nothing else would part them
  withFile(3 * size, (fd) => {
    const regions = [0, 1, 2].map((i) => region(i * size, size, i * size));
    memory.setTable(regions, [fd, fd, fd]);
    for (const { guestAddress } of regions) {
      const at = memory.base + memory.translate(guestAddress, size);
      assertEquals(permissions(at), "rw-s");
      for (const outside of [at - 1, at - size, at + size, at + 2 * size - 1]) {
        assertEquals(permissions(outside), "---p");
      }
    }
  });
});

Deno.test("regions show their part of the file", () => {
  withFile(8 * PAGE, (fd) => {
    memory.setTable([region(0, 8 * PAGE)], [fd]);
    const whole = memory.translate(0, 8 * PAGE);
    memory.view.setUint32(whole + 5 * PAGE + 100, 0xfeed_f00d);
    memory.setTable([region(0x8000, PAGE + 100, 5 * PAGE + 100)], [fd]);
    assertEquals(
      memory.view.getUint32(memory.translate(0x8000, 4)),
      0xfeed_f00d,
    );
    assertEquals(memory.translate(0, 1), -1);
  });
});

Deno.test("a removed region and the space around regions cannot be accessed", () => {
  withFile(4 * PAGE, (fd) => {
    memory.setTable([region(0, 4 * PAGE)], [fd]);
    const at = memory.base + memory.translate(0, 1);
    assertEquals(permissions(at), "rw-s");
    assertEquals(permissions(at - 1), "---p");
    assertEquals(permissions(at + 4 * PAGE), "---p");
    memory.removeRegion({ ...region(0, 4 * PAGE), mmapOffset: 12345 });
    assertEquals(permissions(at), "---p");
    assertEquals(memory.translate(0, 1), -1);
  });
});

Deno.test("adjacent regions are contiguous only up to their border", () => {
  withFile(4 * PAGE, (fd) => {
    memory.addRegion(region(0, PAGE), fd);
    memory.addRegion(region(PAGE, PAGE, PAGE), fd);
    assertEquals(memory.translate(PAGE - 1, 2), -1);
    assertEquals(memory.contiguous(PAGE - 1), 1);
    assertEquals(memory.contiguous(PAGE), PAGE);
  });
});

Deno.test("tables that make no sense are refused and change nothing", () => {
  const event = eventfdCreate();
  withFile(4 * PAGE, (fd) => {
    memory.setTable([region(0, PAGE)], [fd]);
    const before = memory.translate(0, PAGE);
    const refused: [string, RegionRequest[], number][] = [
      ["is empty", [region(PAGE, 0)], fd],
      ["beyond 2^53", [region(2 ** 53 - PAGE, 2 * PAGE)], fd],
      ["beyond 2^53", [region(0, PAGE, 2 ** 63)], fd],
      ["of a file that has 16384", [region(0, 5 * PAGE)], fd],
      ["of a file that has 16384", [region(0, PAGE, 3 * PAGE + 1)], fd],
      ["overlaps", [region(0, 2 * PAGE), region(PAGE, PAGE)], fd],
      ["overlaps", [region(0, PAGE), { ...region(PAGE, PAGE), userAddress: 4095 }, {
        ...region(2 * PAGE, PAGE),
        userAddress: 4096,
      }], fd],
      ["is not in a file", [region(0, PAGE)], event],
    ];
    for (const [message, requests, file] of refused) {
      const error = assertThrows(
        () => memory.setTable(requests, requests.map(() => file)),
        MemoryError,
      );
      assertStringIncludes(error.message, message);
      assertEquals(memory.translate(0, PAGE), before);
    }
    assertThrows(() => memory.setTable([region(0, PAGE)], [-1]), SyscallError, "EBADF");
    assertThrows(() => memory.removeRegion(region(0, 2 * PAGE)), MemoryError, "no such");
    assertThrows(() => memory.addRegion(region(100, PAGE), fd), MemoryError, "overlaps");
    assertEquals(memory.regions.length, 1);
  });
  close(event);
});

Deno.test("memory that could be made shorter is noticed, and refused if told to", () => {
  const sealed = new GuestMemory(2 ** 30);
  sealed.files.sealedOnly = true;
  withFile(4 * PAGE, (fd) => {
    addSeals(fd, F_SEAL_GROW);
    const table = () => sealed.setTable([region(0, PAGE)], [fd]);
    assertStringIncludes(
      assertThrows(table, MemoryError).message,
      "memory-backend-memfd",
    );
    assertThrows(() => sealed.addRegion(region(0, PAGE), fd), MemoryError);
    assertThrows(() => sealed.setLog(fd, PAGE, 0), MemoryError, "dirty log");
    assertEquals([sealed.regions.length, sealed.files.shrinkable], [0, false]);
    const lax = new GuestMemory(2 ** 30);
    lax.setTable([region(0, PAGE)], [fd]);
    assertEquals(lax.files.shrinkable, true);
    lax.clear();
    addSeals(fd, F_SEAL_SHRINK);
    table();
    sealed.setLog(fd, PAGE, PAGE);
    assertEquals([sealed.regions.length, sealed.files.shrinkable], [1, false]);
    sealed.clear();
  });
});

Deno.test("a file that cannot be written to is refused by the kernel", () => {
  const path = Deno.makeTempFileSync();
  Deno.truncateSync(path, PAGE);
  withFile(PAGE, () => {
    const before = memory.regions.length;
    using _file = Deno.openSync(path);
    const fds = [...Deno.readDirSync("/proc/self/fd")].map((entry) => Number(entry.name));
    const fd = fds.find((fd) => linkOf(fd) === path);
    assertThrows(
      () => memory.addRegion(region(0, PAGE), fd ?? -1),
      SyscallError,
      "EACCES",
    );
    assertEquals(memory.regions.length, before);
  });
  Deno.removeSync(path);
});

function linkOf(fd: number): string {
  try {
    return Deno.readLinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return "";
  }
}

Deno.test("more memory than addresses were reserved for is refused", () => {
  withFile(2 ** 35, (fd) => {
    assertThrows(
      () => memory.addRegion(region(0, 2 ** 35), fd),
      MemoryError,
      "does not fit",
    );
  });
});

Deno.test("markDirty() sets the bit of every page touched, and no other", () => {
  withFile(4 * PAGE, (fd) => {
    memory.setTable([region(0x10000, 2 * PAGE), region(0x40000, PAGE, 2 * PAGE)], [
      fd,
      fd,
    ]);
    memory.setLogging(true);
    assert(!memory.logging, "there is no log yet");
    // The log lies in the shared file itself, so that the test can read it.
    memory.setLog(fd, 16, 2 * PAGE + 64);
    assert(memory.logging);
    const bits = () => {
      const at = memory.translate(0x40000, PAGE) + 64;
      const set: number[] = [];
      for (let i = 0; i < 16 * 8; i++) {
        if (memory.view.getUint8(at + (i >> 3)) >> (i & 7) & 1) set.push(i);
      }
      for (let i = 0; i < 16; i++) memory.view.setUint8(at + i, 0);
      return set;
    };
    memory.markDirty(0x10fff, 1);
    assertEquals(bits(), [0x10]);
    memory.markDirty(0x10fff, 2);
    assertEquals(bits(), [0x10, 0x11]);
    memory.markDirty(0x6000, 0);
    assertEquals(bits(), []);
    memory.markDirty(126 * PAGE, 100 * PAGE);
    assertEquals(bits(), [126, 127]);
    memory.markDirtyOffset(memory.translate(0x11000, 8), 8);
    memory.markDirtyOffset(memory.translate(0x40010, 8), 8);
    memory.markDirtyOffset(memory.translate(0x10010, 8) - 0x20, 8);
    assertEquals(bits(), [0x11, 0x40]);
    memory.setLogging(false);
    assert(!memory.logging);
    memory.setLogging(true);
    memory.clearLog();
    assert(!memory.logging);
    memory.markDirty(0x10000, 1);
  });
});

Deno.test("logs that make no sense are refused", () => {
  withFile(PAGE, (fd) => {
    for (const [size, offset] of [[0, 0], [PAGE, 1], [2 ** 40, 0], [1, 2 ** 63]]) {
      assertThrows(() => memory.setLog(fd, size, offset), MemoryError, "dirty log");
    }
    assertEquals(memory.logSize, 0);
  });
});

Deno.test("property: translate() agrees with a plain search through the regions", () => {
  withFile(64 * PAGE, (fd) => {
    const unit = fc.record({ at: fc.nat(40), size: fc.integer({ min: 1, max: 8 }) });
    const probe = fc.record({ at: fc.nat(50 * PAGE), length: fc.nat(10 * PAGE) });
    fc.assert(fc.property(
      fc.array(unit, { maxLength: 12 }),
      fc.array(probe, { maxLength: 50 }),
      (units, probes) => {
        memory.clear();
        const kept: RegionRequest[] = [];
        for (const { at, size } of units) {
          const request = region(at * PAGE, size * PAGE, at * PAGE);
          const clash = kept.some((other) =>
            request.guestAddress < other.guestAddress + other.size &&
            other.guestAddress < request.guestAddress + request.size
          );
          if (clash) assertThrows(() => memory.addRegion(request, fd), MemoryError);
          else {
            memory.addRegion(request, fd);
            kept.push(request);
          }
        }
        for (const { at, length } of probes) {
          const inside = kept.find((r) =>
            at >= r.guestAddress && at < r.guestAddress + r.size &&
            at + length <= r.guestAddress + r.size
          );
          const offset = memory.translate(at, length);
          assertEquals(offset !== -1, inside !== undefined);
          if (offset === -1) continue;
          memory.view.getUint8(offset);
          assertEquals(memory.translateUser(0x7f00_0000_0000 + at, length), offset);
        }
      },
    ));
  });
});
