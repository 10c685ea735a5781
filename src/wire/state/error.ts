/** Why a stream of state is refused. */

/** Error numbers, as Linux has them, that a refused stream is told with. */
export const StateErrno = { invalid: 22, noData: 61, notSupported: 95 } as const;

/** A stream that cannot be taken: where it breaks, what was expected and what came. */
export class StateError extends Error {
  override readonly name = "StateError";

  /**
   * @param number error number for CHECK_DEVICE_STATE
   * @param offset of the field in the stream
   * @param field its name, with the section and record it belongs to
   * @param expected what a reader can take
   * @param came what is there
   */
  constructor(
    readonly number: number,
    readonly offset: number,
    readonly field: string,
    readonly expected: string,
    readonly came: string,
  ) {
    super(`${field} at byte ${offset}: expected ${expected}, came ${came}`);
  }
}

/** A field with a value that cannot be (EINVAL). */
export function invalid(
  offset: number,
  field: string,
  expected: string,
  came: string | number,
): StateError {
  return new StateError(StateErrno.invalid, offset, field, expected, String(came));
}

/** Something that may be right but is not known here (ENOTSUP). */
export function notSupported(
  offset: number,
  field: string,
  expected: string,
  came: string | number,
): StateError {
  return new StateError(StateErrno.notSupported, offset, field, expected, String(came));
}

/** The stream ends too early (ENODATA). */
export function cutShort(offset: number, field: string, needed: number): StateError {
  const expected = `${needed} more byte${needed === 1 ? "" : "s"}`;
  return new StateError(
    StateErrno.noData,
    offset,
    field,
    expected,
    "the end of the stream",
  );
}
