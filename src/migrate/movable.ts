/** What a migration moves, as its state machine sees it. */
import type { MovedState } from "../wire/state/model.ts";

/** Functions return 0, or the number of the error that is told to the frontend. */
export interface Movable {
  /**
   * Source: holds everything still, so that it can be saved; may be so already. On an
   * error {@link thaw} undoes what was done.
   */
  freeze(): number;
  /** Source: what is to be moved, while it is frozen. */
  save(): MovedState;
  /**
   * Target: takes over what was moved, frozen as it was at the source. A connection that
   * cannot be had is lost alone.
   */
  restore(state: MovedState): number;
  /**
   * What is frozen goes on, here: at the target, or at the source if the guest stays. On
   * an error some of it stays frozen, and it can be tried again.
   */
  thaw(): number;
  /** Ends what is frozen without a word to anybody: it goes on elsewhere. */
  discard(): void;
  /**
   * Source: after {@link freeze} failed, holds still what was nevertheless frozen later by
   * a helper that was too slow. To be called often.
   *
   * @returns whether there is any, for {@link thaw}
   */
  catchLate(): boolean;
  /** Gives up what could not be thawed: both ends of each connection are told. */
  reset(): void;
}
