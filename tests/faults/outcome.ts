/** How the steps of a life may end. */
import { StartError } from "../../src/errors.ts";
import { Gone, Refused } from "./world.ts";

/** How a step ended. */
export type Outcome =
  /** As it would without any fault; packets may have been sent again. */
  | "done"
  /** The start ends with one line and exit status 1. */
  | "start refused"
  /** A message of the frontend is answered with an error. */
  | "refused"
  /** The frontend's connection is closed. */
  | "closed"
  /** The connection is reset, or cannot be made. */
  | "reset"
  /** The state is not saved or not taken; the guest goes on where it was. */
  | "not moved";

/** Steps that did not just succeed. */
export type Report = Record<string, Outcome>;

/** A step failed in a stated way. */
export class Failed extends Error {
  constructor(readonly outcome: Outcome) {
    super(outcome);
  }
}

/** How a step ended that threw. @throws what is no stated outcome */
export function outcomeOf(error: unknown): Outcome {
  if (error instanceof StartError) return "start refused";
  if (error instanceof Refused) return "refused";
  if (error instanceof Gone) return "closed";
  if (error instanceof Failed) return error.outcome;
  throw error;
}
