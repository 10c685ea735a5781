/**
 * Adds counters to TypeScript: one where each branch begins, so that a run says where it
 * went. The text stays as it is otherwise, line by line, types included.
 */
import { parse } from "@babel/parser";

/** What the walk needs of a node of Babel's syntax tree. */
interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [field: string]: unknown;
}

/** Closing texts come before opening ones at the same place. */
interface Edit {
  readonly at: number;
  readonly opens: boolean;
  readonly text: string;
  /** Where the text that it replaces ends. */
  readonly until: number;
}

const WRAPPERS = /^TS(?:As|NonNull|Satisfies|TypeAssertion|Instantiation)/;
const LOOPS = /^(?:For|ForIn|ForOf|While|DoWhile)Statement$/;
const NOT_NUMBERS = /^(?:String|Null|Boolean)Literal$|^TemplateLiteral$/;
const MAX_TEXT = 40;

class Instrumenter {
  readonly edits: Edit[] = [];
  readonly literals = new Set<number | string>();
  count = 0;

  #insert(at: number, opens: boolean, text: string, until = at): void {
    this.edits.push({ at, opens, text, until });
  }

  #counter(): string {
    return `__c[${this.count++}]++`;
  }

  /** Counts a statement that runs or does not. */
  #statement(node: Node): void {
    if (node.type === "BlockStatement") {
      this.#insert(node.start + 1, true, `${this.#counter()};`);
      this.walk(node);
      return;
    }
    this.#insert(node.start, true, `{${this.#counter()};`);
    this.walk(node);
    this.#insert(node.end, false, "}");
  }

  /** Counts an expression that is computed or not. */
  #expression(node: Node): void {
    this.#insert(node.start, true, `(${this.#counter()},`);
    this.walk(node);
    this.#insert(node.end, false, ")");
  }

  #if(node: Node): void {
    this.walk(node.test as Node);
    const [then, other] = [node.consequent as Node, node.alternate as Node | null];
    this.#statement(then);
    if (other) this.#statement(other);
    else this.#insert(then.end, false, ` else {${this.#counter()};}`);
  }

  #function(node: Node): void {
    for (const param of node.params as Node[]) this.walk(param);
    if (node.key && node.computed) this.walk(node.key as Node);
    const body = node.body as Node;
    if (body.type === "BlockStatement") this.#statement(body);
    else this.#expression(body);
  }

  /** a === b becomes a call that notes unequal numbers. */
  #comparison(node: Node): void {
    const [left, right] = [node.left as Node, node.right as Node];
    if (NOT_NUMBERS.test(left.type) || NOT_NUMBERS.test(right.type)) {
      return this.#children(node);
    }
    this.#insert(node.start, true, node.operator === "===" ? "__k(" : "!__k(");
    this.walk(left);
    this.#insert(left.end, false, ",", right.start);
    this.walk(right);
    this.#insert(node.end, false, ")");
  }

  walk(node: Node): void {
    const { type } = node;
    if (type.startsWith("TS") && type !== "TSParameterProperty") {
      if (WRAPPERS.test(type)) this.walk(node.expression as Node);
      return;
    }
    if (node.declare === true) return;
    if (LOOPS.test(type)) return this.#loop(node);
    switch (type) {
      case "IfStatement":
        return this.#if(node);
      case "FunctionDeclaration":
      case "FunctionExpression":
      case "ArrowFunctionExpression":
      case "ObjectMethod":
      case "ClassMethod":
      case "ClassPrivateMethod":
        return this.#function(node);
      case "CatchClause":
        return this.#statement(node.body as Node);
      case "ConditionalExpression":
        this.walk(node.test as Node);
        this.#expression(node.consequent as Node);
        return this.#expression(node.alternate as Node);
      case "LogicalExpression":
        this.walk(node.left as Node);
        return this.#expression(node.right as Node);
      case "BinaryExpression":
        if (/^[!=]==$/.test(node.operator as string)) return this.#comparison(node);
        return this.#children(node);
      case "ImportDeclaration":
        return;
      case "NumericLiteral":
      case "StringLiteral":
        return this.#literal(node.value as number | string);
      case "SwitchCase":
        this.#case(node);
    }
    this.#children(node);
  }

  #loop(node: Node): void {
    for (const field of ["init", "test", "update", "left", "right"]) {
      const part = node[field] as Node | null | undefined;
      if (part) this.walk(part);
    }
    this.#statement(node.body as Node);
  }

  #case(node: Node): void {
    const [first] = node.consequent as Node[];
    if (first !== undefined) this.#insert(first.start, true, `${this.#counter()};`);
  }

  #literal(value: number | string): void {
    if (typeof value === "number" && value > 16) {
      this.literals.add(value);
    } else if (typeof value === "string" && value.length <= MAX_TEXT) {
      this.literals.add(value);
    }
  }

  #children(node: Node): void {
    for (const key in node) {
      if (/^(?:loc|extra|errors|.*[cC]omments|typeAnnotation|returnType)$/.test(key)) {
        continue;
      }
      const value = node[key];
      for (const child of Array.isArray(value) ? value : [value]) {
        if (typeof child?.type === "string") this.walk(child as Node);
      }
    }
  }

  /** The text with all insertions. */
  apply(text: string): string {
    const edits = this.edits.map((edit, order) => ({ ...edit, order }));
    edits.sort((a, b) =>
      a.at - b.at || Number(a.opens) - Number(b.opens) || a.order - b.order
    );
    const parts: string[] = [];
    let from = 0;
    for (const { at, text: inserted, until } of edits) {
      parts.push(text.slice(from, at), inserted);
      from = Math.max(at, until);
    }
    parts.push(text.slice(from));
    return parts.join("");
  }
}

/**
 * The module `text` with counters, for the hooks of coverage.ts.
 *
 * @param path names it
 * @throws {SyntaxError} if it is no TypeScript
 */
export function instrument(text: string, path: string): string {
  const file = parse(text, {
    sourceType: "module",
    plugins: ["typescript"],
    createParenthesizedExpressions: true,
  });
  const instrumenter = new Instrumenter();
  instrumenter.walk(file.program as unknown as Node);
  const { count, literals } = instrumenter;
  const values = JSON.stringify([...literals]);
  const hooks = "(globalThis as any).vueloFuzz";
  const head = `const __c: any = ${hooks}.cover(${JSON.stringify(path)}, ${count}, ` +
    `${values}), __k: any = ${hooks}.same; `;
  return head + instrumenter.apply(text);
}
