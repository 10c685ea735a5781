/**
 * All places in the source where vuelo calls libc: those in `ffi`, and those in `src` that
 * call what is in `ffi`. Each is a file and a line, as the frames of a stack are.
 */
import { parse } from "@babel/parser";

/** What the walk needs of a node of Babel's syntax tree. */
interface Node {
  readonly type: string;
  readonly loc: { readonly start: { readonly line: number } };
  readonly [field: string]: unknown;
}

/** A place, and what is called there. */
export interface CallSite {
  /** "src/poll.ts:12". */
  readonly at: string;
  /** Functions of libc, or one of `ffi`. */
  readonly calls: string;
}

const ROOT = new URL("../../", import.meta.url);
/** Objects of classes of `ffi`, by their names in `src`. */
const OBJECTS: readonly (readonly [RegExp, string])[] = [
  [/epoll$/i, "Epoll"],
  [/watch$/i, "FolderWatch"],
];

function isNode(value: unknown): value is Node {
  return typeof value === "object" && value !== null &&
    typeof (value as Node).type === "string";
}

function walk(node: Node, visit: (node: Node) => boolean | void): void {
  if (visit(node) === false) return;
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (isNode(child)) walk(child, visit);
    }
  }
}

/** "name" of an identifier, of a private name, or of a property. */
function nameOf(node: unknown): string {
  if (!isNode(node)) return "";
  switch (node.type) {
    case "Identifier":
      return node.name as string;
    case "PrivateName":
      return `#${nameOf(node.id)}`;
    case "MemberExpression":
    case "OptionalMemberExpression":
      return nameOf(node.property);
    case "TSNonNullExpression":
      return nameOf(node.expression);
    case "ThisExpression":
      return "this";
    default:
      return "";
  }
}

function lineOf(node: Node): number {
  const member = node.type.endsWith("MemberExpression");
  return (member ? node.property as Node : node).loc.start.line;
}

function filesOf(folder: string): string[] {
  return [...Deno.readDirSync(new URL(folder, ROOT))].flatMap(({ name, isDirectory }) => {
    if (isDirectory) return filesOf(`${folder}${name}/`);
    const source = name.endsWith(".ts") && !/_test\.ts$|\.d\.ts$/.test(name);
    return source ? [`${folder}${name}`] : [];
  }).sort();
}

function read(file: string): Node {
  const text = Deno.readTextFileSync(new URL(file, ROOT));
  return parse(text, {
    sourceType: "module",
    plugins: ["typescript"],
  }) as unknown as Node;
}

/** A function of `ffi`: what it calls, there and of libc. */
interface Part {
  readonly calls: Set<string>;
  readonly libc: Set<string>;
}

/** Names of what is bound by libc() and rare(), and of single functions of it. */
function tablesOf(tree: Node): { tables: Set<string>; aliases: Map<string, string> } {
  const tables = new Set<string>();
  const aliases = new Map<string, string>();
  walk(tree, (node) => {
    if (node.type !== "VariableDeclarator" || !isNode(node.init)) return;
    const { init } = node;
    if (["libc", "rare"].includes(nameOf(init.callee))) tables.add(nameOf(node.id));
    const value = init.type === "TSNonNullExpression" ? init.expression as Node : init;
    if (value.type === "MemberExpression" && tables.has(nameOf(value.object))) {
      aliases.set(nameOf(node.id), nameOf(value));
    }
  });
  return { tables, aliases };
}

/** What of `ffi` comes to libc, and where it does. */
function readFfi(failing: (name: string) => boolean) {
  const parts = new Map<string, Part>();
  const sites: CallSite[] = [];
  for (const file of filesOf("ffi/")) {
    if (file === "ffi/libc.ts") continue;
    const tree = read(file);
    const { tables, aliases } = tablesOf(tree);
    const inside = (name: string, own: string, body: Node) => {
      const part: Part = { calls: new Set(), libc: new Set() };
      parts.set(name, part);
      walk(body, (node) => {
        if (!/^(?:Optional)?CallExpression$|^NewExpression$/.test(node.type)) return;
        const callee = node.callee as Node;
        const called = nameOf(callee);
        const of = nameOf(callee.object);
        const direct = tables.has(of) ? called : aliases.get(called);
        if (direct !== undefined) {
          if (!failing(direct)) return;
          part.libc.add(direct);
          sites.push({ at: `${file}:${lineOf(callee)}`, calls: direct });
        } else if (of === "this") part.calls.add(`${own}.${called}`);
        else part.calls.add(node.type === "NewExpression" ? `${called}.new` : called);
      });
    };
    for (const statement of (tree.program as Node).body as Node[]) {
      const declared = isNode(statement.declaration) ? statement.declaration : statement;
      const name = nameOf(declared.id);
      if (declared.type === "FunctionDeclaration") inside(name, "", declared);
      if (declared.type !== "ClassDeclaration") continue;
      for (const member of (declared.body as Node).body as Node[]) {
        const key = member.kind === "constructor" ? "new" : nameOf(member.key);
        inside(`${name}.${key}`, name, member);
      }
    }
  }
  for (let grew = true; grew;) {
    grew = false;
    for (const { calls, libc } of parts.values()) {
      const before = libc.size;
      for (const called of calls) {
        for (const more of parts.get(called)?.libc ?? []) libc.add(more);
      }
      grew ||= libc.size > before;
    }
  }
  return { parts, sites };
}

/** What of `ffi` a file imports, by the name that it has there. */
function importsOf(tree: Node): Map<string, string> {
  const names = new Map<string, string>();
  for (const statement of (tree.program as Node).body as Node[]) {
    if (statement.type !== "ImportDeclaration") continue;
    if (!/\/ffi\/\w+\.ts$/.test((statement.source as Node).value as string)) continue;
    for (const specifier of statement.specifiers as Node[]) {
      names.set(nameOf(specifier.local), nameOf(specifier.imported));
    }
  }
  return names;
}

/**
 * Every call site, in the order of files and lines.
 *
 * @param failing whether a function of libc may fail
 */
export function callSites(failing: (name: string) => boolean): CallSite[] {
  const { parts, sites } = readFfi(failing);
  for (const file of [...filesOf("src/"), "main.ts"]) {
    const tree = read(file);
    const imports = importsOf(tree);
    walk(tree, (node) => {
      if (!/^(?:Optional)?CallExpression$|^NewExpression$/.test(node.type)) return;
      const callee = node.callee as Node;
      const called = nameOf(callee);
      let name = imports.get(called) ?? "";
      if (node.type === "NewExpression") name += ".new";
      if (callee.type.endsWith("MemberExpression")) {
        const of = nameOf(callee.object);
        const owner = OBJECTS.find(([pattern]) => pattern.test(of))?.[1];
        name = owner === undefined ? "" : `${owner}.${called}`;
      }
      if ((parts.get(name)?.libc.size ?? 0) === 0) return;
      sites.push({ at: `${file}:${lineOf(callee)}`, calls: name });
    });
  }
  return sites;
}
