/**
 * DPDK's virtio-user, bridged to a tap. Its virtio driver takes no frames above 9728 bytes
 * (VIRTIO_MAX_RX_PKTLEN).
 */
import { DpdkGuest } from "../../support/dpdk.ts";
import type { Frontend, GuestSpace } from "./frontend.ts";
import { addressLink, droppedBy, ip, linkGone, prepareNamespace } from "./network.ts";

const LINK = "eth0";
/** Frames that wait for testpmd; a full queue would lose them. */
const QUEUE_LENGTH = 60_000;
const HEADROOM = 256;

class DpdkSpace implements GuestSpace {
  constructor(private readonly guest: DpdkGuest) {}

  get namespace(): string {
    return this.guest.namespace;
  }

  get output(): string {
    return this.guest.output;
  }

  async attach(socket: string, mtu: number): Promise<void> {
    const frame = mtu + 18;
    const args = mtu > 1500
      ? [`--max-pkt-len=${frame}`, `--mbuf-size=${frame + HEADROOM}`]
      : [];
    await this.guest.start(socket, { args });
    await ip(this.namespace, `link set ${LINK} mtu ${mtu} txqueuelen ${QUEUE_LENGTH} up`);
    await addressLink(this.namespace, LINK);
  }

  async detach(): Promise<void> {
    await this.guest.stop();
    await linkGone(this.namespace, LINK);
  }

  dropped(): Promise<number> {
    return droppedBy(this.namespace, LINK);
  }

  async close(): Promise<void> {
    await this.guest.close();
  }
}

export const DPDK: Frontend = {
  name: "dpdk",
  async create(): Promise<GuestSpace> {
    const guest = await DpdkGuest.create();
    await prepareNamespace(guest.namespace);
    return new DpdkSpace(guest);
  },
};
