/**
 * What a guest and its frontend do in a life, step by step. A step may fail in one of the
 * ways that are stated for it; done again, it has to succeed.
 */
import { close } from "../../ffi/event.ts";
import {
  AF_INET,
  closeFd,
  IPPROTO_ICMP,
  openSocket,
  SOCK_DGRAM,
} from "../../ffi/socket.ts";
import { connectUnix, isHungUp, send } from "../../ffi/unix_socket.ts";
import { echoPacket, udpPacket } from "../support/guest_packets.ts";
import { HostListener, HostTcp } from "../support/host_tcp.ts";
import { tcpFrame } from "../support/tcp_segment.ts";
import { HostUdp } from "../support/host_udp.ts";
import { sealed } from "../support/dhcp.ts";
import {
  arpRequest,
  GuestTcp,
  pattern,
  type Received,
  segmentOf,
  transportOf,
} from "./guest_tcp.ts";
import { type How, leaveAndArrive } from "./move.ts";
import { Failed, outcomeOf, type Report } from "./outcome.ts";
import { FaultWorld, Gone } from "./world.ts";

const TRIES = 40;
const TURNS = 8;
const MANY = 150;
const LENGTH = 6000;
/** More than what the interface of {@link FaultWorld.loopback} takes. */
const BIG = 1450;
/** Not that which sockets have. */
const TTL = 70;

/** Whether this host lets users ping (net.ipv4.ping_group_range). */
const PINGS = (() => {
  const fd = openSocket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
  if (fd !== -1) closeFd(fd);
  return fd !== -1;
})();

const DISCOVER = sealed(Uint8Array.fromHex(
  "ffffffffffff" + "525400123456" + "0800" + "45000000" + "00000000" + "40110000" +
    "00000000" + "ffffffff" + "0044004300000000" + "01010600" + "01020304" +
    "00".repeat(20) + "525400123456" + "00".repeat(10 + 64 + 128) + "63825363" +
    "350101ff",
));

/** ICMP says that nobody is there. */
function isUnreachable(frame: Uint8Array): boolean {
  const { protocol, bytes } = transportOf(frame);
  return protocol === 1 && bytes[0] === 3 || protocol === 58 && bytes[0] === 1;
}

/** ICMP says that it did not fit. */
function isTooBig(frame: Uint8Array): boolean {
  const { protocol, bytes } = transportOf(frame);
  return protocol === 1 && bytes[0] === 3 && bytes[1] === 4 ||
    protocol === 58 && bytes[0] === 2;
}

export class Life {
  readonly report: Report = {};
  #port = 40000;

  constructor(readonly world: FaultWorld) {}

  /** Does a step, several times; what fails every time is a finding. */
  step(name: string, body: () => void, between: () => void = () => {}): void {
    for (let tries = 1;; tries++) {
      try {
        body();
        if (this.world.peer?.ended === true) throw new Gone("closed");
        return;
      } catch (error) {
        const outcome = outcomeOf(error);
        this.report[name] = outcome;
        if (outcome === "start refused") throw error;
        if (tries === TRIES) throw new Error(`${name}: never succeeds, ${outcome}`);
        if (name !== "connect" && (this.world.peer?.ended ?? true)) this.#reconnect();
        between();
      }
    }
  }

  #reconnect(): void {
    this.world.hangUp();
    this.connect();
  }

  connect(): void {
    this.step("connect", () => {
      try {
        this.world.connect();
        this.world.renew();
        this.world.start();
      } catch (error) {
        this.world.hangUp();
        throw error;
      }
    }, () => this.world.hangUp());
  }

  arp(): void {
    const { world } = this;
    this.step("ARP, DHCP", () => {
      let arp = false;
      let dhcp = false;
      world.other = (frame) => {
        if (frame[12] === 8 && frame[13] === 6 && frame[21] === 2) arp = true;
        if (frame[23] === 17 && frame[35] === 67) dhcp = true;
      };
      const ask = () => {
        if (!arp) world.send(arpRequest(this.world.ends));
        if (!dhcp) world.send(DISCOVER);
      };
      ask();
      world.until("ARP and DHCP", () => arp && dhcp, ask);
    });
  }

  udp(): void {
    this.step("UDP", () => {
      const host = new HostUdp(this.world.loopback);
      try {
        this.#echo(host);
      } finally {
        host.close();
      }
    });
  }

  #echo(host: HostUdp): void {
    const { world } = this;
    const port = this.#port++;
    const came = new Set<number>();
    world.other = (frame) => {
      const { protocol, bytes } = transportOf(frame);
      if (protocol === 17 && (bytes[2] << 8 | bytes[3]) === port) came.add(bytes[8]);
    };
    const ask = () => {
      for (const i of [1, 2, 3]) {
        const bytes = Uint8Array.of(i, ...pattern(100 * i));
        const datagram = udpPacket(world.ends, port, host.port, bytes, TTL + i);
        if (!came.has(i)) world.send(datagram);
      }
    };
    ask();
    world.until("datagrams", () => {
      for (let got = host.receive(); got !== undefined; got = host.receive()) {
        host.send(got.bytes, got.from, got.port);
      }
      return came.size === 3;
    }, ask);
  }

  /** Nobody is there: the guest is told by ICMP. */
  unreachable(): void {
    const { world } = this;
    this.step("UDP to nobody", () => {
      const host = new HostUdp(this.world.loopback);
      host.close();
      let told = false;
      world.other = (frame) => {
        told ||= isUnreachable(frame);
      };
      // From another port each time: one flow may not be able to hear of errors.
      const ask = () =>
        world.send(udpPacket(this.world.ends, this.#port++, host.port, pattern(10)));
      ask();
      world.until("an ICMP error", () => told, ask);
    });
  }

  /** A datagram exceeds the path's MTU: the guest is told by ICMP. */
  tooBig(): void {
    const { world } = this;
    this.step("too big", () => {
      const host = new HostUdp(world.loopback);
      try {
        let told = false;
        world.other = (frame) => {
          told ||= isTooBig(frame);
        };
        const ask = () =>
          world.send(udpPacket(world.ends, this.#port++, host.port, pattern(BIG)));
        ask();
        world.until("an ICMP error", () => told, ask);
      } finally {
        host.close();
      }
    });
  }

  /** An echo of the host's loopback, where ping sockets are allowed. */
  ping(): void {
    const { world } = this;
    if (!PINGS) return;
    this.step("ping", () => {
      const id = this.#port++;
      let came = false;
      world.other = (frame) => {
        const { protocol, bytes } = transportOf(frame);
        const reply = protocol === 1 && bytes[0] === 0 ||
          protocol === 58 && bytes[0] === 129;
        if (reply && bytes[9] === 7) came = true;
      };
      const ask = () =>
        world.send(echoPacket(world.ends, id, 1, Uint8Array.of(9, 7), TTL));
      ask();
      world.until("an echo", () => came, ask);
    });
  }

  /** So many datagrams that their socket is looked into at intervals for a while. */
  manyDatagrams(): void {
    const { world } = this;
    this.step("many datagrams", () => {
      const host = new HostUdp(world.loopback);
      const port = this.#port++;
      let came = 0;
      world.other = (frame) => {
        const { protocol, bytes } = transportOf(frame);
        if (protocol === 17 && (bytes[2] << 8 | bytes[3]) === port) came++;
      };
      // Of one size: they may be one message.
      const ask = () => {
        for (const i of [1, 2, 3]) {
          world.send(udpPacket(world.ends, port, host.port, pattern(10, i)));
        }
      };
      try {
        ask();
        world.until("many datagrams", () => {
          const got = host.receive();
          for (let i = 0; got !== undefined && i < MANY; i++) {
            host.send(pattern(10), got.from, got.port);
          }
          return came >= MANY;
        }, ask);
        world.turns(5);
      } finally {
        host.close();
      }
    });
  }

  forwardedUdp(): void {
    const { world } = this;
    this.step("UDP forwarded", () => {
      const host = new HostUdp(this.world.loopback);
      try {
        world.other = (frame) => {
          const { protocol, bytes } = transportOf(frame);
          if (protocol !== 17 || (bytes[2] << 8 | bytes[3]) !== 8080) return;
          const port = bytes[0] << 8 | bytes[1];
          // What comes from the host's loopback is from where the guest finds the host.
          world.send(udpPacket(this.world.ends, 8080, port, bytes.slice(8)));
        };
        const ask = () =>
          host.send(pattern(100), this.world.loopback, world.forwardedUdp);
        ask();
        world.until("an answer", () => host.receive() !== undefined, ask);
      } finally {
        host.close();
      }
    });
  }

  tcp(): void {
    this.step("TCP", () => {
      const listener = new HostListener(this.world.loopback);
      try {
        const [flow, host] = this.open(listener);
        this.#roundTrip(flow, host, true);
      } finally {
        listener.close();
      }
    });
  }

  /** A connection of the guest with a socket that listens. */
  open(listener: HostListener): [GuestTcp, HostTcp] {
    const flow = this.#connectTcp(listener.port);
    let host: HostTcp | undefined;
    this.#untilTcp("a connection", flow, () => {
      host ??= listener.accept();
      return host !== undefined && flow.established;
    });
    return [flow, host!];
  }

  #connectTcp(port: number): GuestTcp {
    const flow = new GuestTcp(this.world.send, this.world.ends, this.#port++, port);
    this.world.tcp.set(flow.port, flow);
    return flow;
  }

  #untilTcp(what: string, flow: GuestTcp, done: () => boolean): void {
    const told = this.world.other;
    // An ICMP error tells the guest as well that there is no connection to be had.
    this.world.other = (frame) => {
      if (isUnreachable(frame) && !flow.established) flow.reset = true;
    };
    this.world.until(what, () => flow.reset || done());
    this.world.other = told;
    if (flow.reset) throw new Failed("reset");
  }

  /** Bytes to the host and back; then, if it is to `end`, FIN both ways. */
  #roundTrip(flow: GuestTcp, host: HostTcp, end: boolean): void {
    const sent = flow.back.length;
    const data = pattern(sent + LENGTH).slice(sent);
    let ended = false;
    const echo = (): void => {
      for (;;) {
        const got = host.receive();
        if (!(got instanceof Uint8Array)) {
          if (got !== "end") flow.reset = true;
          else if (!ended) host.shutdown();
          ended = true;
          return;
        }
        if (got.length === 0) return;
        host.send(got);
      }
    };
    try {
      flow.send(data);
      this.#untilTcp("what was sent", flow, () => {
        echo();
        return flow.back.length === sent + LENGTH;
      });
      const right = flow.back.every((byte, i) => byte === pattern(1, i)[0]);
      if (!right) throw new Error("other bytes came than were sent");
      if (!end) return;
      flow.finish();
      this.#untilTcp("FIN", flow, () => {
        echo();
        return flow.ended && flow.finished;
      });
    } catch (error) {
      end = true;
      throw error;
    } finally {
      if (end) {
        host.close();
        this.world.tcp.delete(flow.port);
      }
    }
  }

  /** @param crowd another, that the guest does not answer, is all there may be at first */
  forwardedTcp(crowd = false): void {
    const { world } = this;
    this.step("TCP forwarded", () => {
      world.other = () => {};
      const first = crowd && HostTcp.connect(world.loopback, world.forwardedTcp);
      if (crowd) world.turns(TURNS);
      const host = HostTcp.connect(world.loopback, world.forwardedTcp);
      if (crowd) world.turns(TURNS);
      if (first !== false) first.reset();
      let flow: GuestTcp | undefined;
      const note = (frame: Uint8Array) => {
        const segment = segmentOf(frame);
        if (segment?.flags !== "S" || segment.toPort !== 8080) return;
        // What is left of earlier ones.
        if (segment.fromPort !== host.port) return this.#refuse(segment);
        flow = new GuestTcp(world.send, this.world.ends, 8080, segment.fromPort, true);
        world.tcp.set(8080, flow);
        flow.take(segment);
      };
      world.other = note;
      try {
        world.until("a forwarded connection", () => {
          const got = host.receive();
          if (!(got instanceof Uint8Array) && got !== 107) throw new Failed("reset");
          return flow?.established === true;
        });
      } catch (error) {
        host.close();
        throw error;
      }
      this.#roundTrip(flow!, host, true);
    });
  }

  /** The guest does not want a connection. */
  #refuse({ seq, toPort, fromPort }: Received): void {
    const { ends, send } = this.world;
    const none = new Uint8Array(0);
    const segment = { flags: "RA", seq: 0, ack: seq + 1 >>> 0, window: 0 };
    const rest = { data: none, options: none };
    send(tcpFrame(ends, toPort, fromPort, { ...segment, ...rest }));
  }

  /** A repair helper comes and goes; it has nothing to do. */
  helper(path: string): void {
    const { world } = this;
    this.step("repair helper", () => {
      const fd = connectUnix(path);
      try {
        world.turns(TURNS);
        if (isHungUp(fd)) throw new Failed("closed");
        const second = connectUnix(path);
        world.turns(TURNS);
        close(second); // one is enough
        send(fd, Uint8Array.of(1), [fd]); // and was asked for nothing
        world.turns(TURNS);
      } finally {
        close(fd);
        world.turns(TURNS);
      }
    });
  }

  /** Moves are rehearsed until that is done with, or given up. */
  rehearse(): void {
    const { world } = this;
    this.step("rehearsal", () => {
      world.until("the end of the rehearsals", () => !world.rehearses);
    });
  }

  /** The guest reboots: its driver resets the device, and starts it again. */
  reset(): void {
    const { world } = this;
    this.step("reset", () => {
      world.stop();
      world.renew();
      world.start();
    });
  }

  /** The guest leaves with a connection, arrives here again, and goes on. */
  move(how: How = {}): void {
    const { world } = this;
    let listener = new HostListener(this.world.loopback);
    let host: HostTcp | undefined;
    let flow: GuestTcp | undefined;
    const talk = () => {
      if (flow?.reset === true) {
        flow = undefined;
        throw new Failed("reset");
      }
      if (flow !== undefined && host !== undefined) {
        return this.#roundTrip(flow, host, false);
      }
      host?.close();
      host = undefined;
      listener.close(); // what failed may wait there
      listener = new HostListener(this.world.loopback);
      [flow, host] = this.open(listener);
      return this.#roundTrip(flow, host, false);
    };
    try {
      this.step("TCP before a move", talk);
      this.step("move", () => {
        world.callHelper();
        leaveAndArrive(world, how);
      });
      this.step("TCP after a move", talk);
    } finally {
      host?.close();
      listener.close();
      if (flow !== undefined) world.tcp.delete(flow.port);
    }
  }
}
