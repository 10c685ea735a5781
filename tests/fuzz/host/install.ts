/** To be imported before any module of ffi: see interpose.ts. */
import { checker } from "./interpose.ts";
import { Arena } from "../../../ffi/arena.ts";

const { take } = Arena.prototype;
Arena.prototype.take = function (size, align) {
  const at = take.call(this, size, align);
  checker.take(this.base + at, size);
  return at;
};

export { host } from "./interpose.ts";
