/**
 * What vuelo tells its operator: lines on the terminal, in a file or for the system's
 * logger. Filtering and formatting are LogTape's; writing is synchronous, so that the
 * last line before the end of the process is never lost.
 *
 * Code that runs per packet asks {@link Log.isTrace} or {@link Log.isDebug} before it
 * makes a text, and logs through a {@link LogSite}, which bounds the rate.
 */
import {
  configureSync,
  getLogger,
  getTextFormatter,
  type LogRecord,
} from "@logtape/logtape";
import { openSyslog, SyslogSeverity, writeSyslog } from "../ffi/syslog.ts";
import type { LogLevel } from "./config.ts";
import { LogFile } from "./log_file.ts";

/** What is logged, and where to. */
export interface LogOptions {
  readonly level: LogLevel;
  /** Path of a log file, which then gets everything and the terminal nothing. */
  readonly file?: string;
  /** Bytes that the file may have. */
  readonly size: number;
}

const RANK: Readonly<Record<LogLevel, number>> = {
  trace: 0,
  debug: 1,
  info: 2,
  warning: 3,
  error: 4,
};
const SEVERITY: Readonly<Record<string, number>> = {
  trace: SyslogSeverity.debug,
  debug: SyslogSeverity.debug,
  info: SyslogSeverity.info,
  warning: SyslogSeverity.warning,
};

/** A line ends where its text ends: what guests and peers send cannot forge another. */
// deno-lint-ignore no-control-regex
const CONTROL = /[\x00-\x1f\x7f]/g;

const encoder = new TextEncoder();
const logger = getLogger("vuelo");
const started = performance.now();

/** Time since the start, for a terminal that shows debugging. */
const formatTimed = getTextFormatter({
  timestamp: () => ((performance.now() - started) / 1000).toFixed(4),
  format: ({ timestamp, record }) => `${timestamp}: ${plain(record)}`,
});
const formatDated = getTextFormatter({
  timestamp: "rfc3339",
  level: "full",
  format: ({ timestamp, level, record }) => `${timestamp} ${level}: ${text(record)}`,
});
const formatPlain = getTextFormatter({ format: ({ record }) => plain(record) });

function text(record: LogRecord): string {
  return String(record.rawMessage).replace(CONTROL, " ");
}

function plain(record: LogRecord): string {
  const important = record.level === "warning" || record.level === "error";
  return important ? `vuelo: ${record.level}: ${text(record)}` : text(record);
}

type Sink = (record: LogRecord) => void;

function terminalSink(level: LogLevel): Sink {
  const format = RANK[level] <= RANK.debug ? formatTimed : formatPlain;
  return (record) => {
    try {
      Deno.stderr.writeSync(encoder.encode(format(record)));
    } catch {
      // Nobody reads any more; that must not end the service.
    }
  };
}

function fileSink(file: LogFile): Sink {
  return (record) => {
    try {
      file.write(encoder.encode(formatDated(record)));
    } catch {
      // A full disk must not end the service.
    }
  };
}

function syslogSink(): Sink {
  return (record) =>
    writeSyslog(SEVERITY[record.level] ?? SyslogSeverity.error, text(record));
}

class Log {
  #rank = RANK.info;
  #level: LogLevel = "info";
  #toFile = false;
  /** Lines in a second at most, 0: any number; those of this second, and those left out. */
  #rate = 0;
  #second = 0;
  #lines = 0;
  #leftOut = 0;

  /** True if trace lines are wanted: a comparison of two numbers. */
  isTrace(): boolean {
    return this.#rank <= RANK.trace;
  }
  /** True if debug lines are wanted: a comparison of two numbers. */
  isDebug(): boolean {
    return this.#rank <= RANK.debug;
  }

  trace(message: string): void {
    this.write("trace", message);
  }
  debug(message: string): void {
    this.write("debug", message);
  }
  info(message: string): void {
    this.write("info", message);
  }
  warn(message: string): void {
    this.write("warning", message);
  }
  error(message: string): void {
    this.write("error", message);
  }

  write(level: LogLevel, message: string): void {
    if (RANK[level] < this.#rank || !this.#admits()) return;
    this.#emit(level, message);
  }

  /** Bounds the lines of each second, from now on; see {@link tick}. */
  limit(perSecond: number): void {
    this.#rate = perSecond;
  }

  /** To be called now and then: tells of lines that were left out, if there were any. */
  tick(): void {
    if (this.#leftOut > 0) this.#admits(0);
  }

  /** Whether there may be another line (or as many) in this second. */
  #admits(count = 1): boolean {
    if (this.#rate === 0) return true;
    const second = Math.floor(performance.now() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#lines = 0;
      if (this.#leftOut > 0) {
        const text = `${this.#leftOut} lines were left out, more than ${this.#rate} ` +
          "a second (--log-rate)";
        this.#leftOut = 0;
        this.#emit("warning", text);
      }
    }
    if (this.#lines + count > this.#rate) {
      this.#leftOut++;
      return false;
    }
    this.#lines += count;
    return true;
  }

  #emit(level: LogLevel, message: string): void {
    logger.emit({
      level,
      message: [message],
      rawMessage: message,
      timestamp: Date.now(),
      properties: {},
    });
  }

  /**
   * Sets level and destination; before this, lines from info on go to the terminal.
   *
   * @throws {StartError} if the log file cannot be opened
   */
  configure(options: LogOptions): void {
    this.#level = options.level;
    this.#rank = RANK[options.level];
    this.#toFile = options.file !== undefined;
    this.#use(
      options.file === undefined
        ? terminalSink(options.level)
        : fileSink(new LogFile(options.file, options.size)),
    );
  }

  /** Lines of this thread go to `take`, which another thread writes them for. */
  divert(level: LogLevel, take: (level: LogLevel, message: string) => void): void {
    this.#level = level;
    this.#rank = RANK[level];
    this.#toFile = true;
    this.#use((record) => take(record.level as LogLevel, String(record.rawMessage)));
  }

  /** Connects to the system's logger, if lines are to go there. */
  prepareToLeaveTerminal(): void {
    if (!this.#toFile) openSyslog();
  }

  /** The process leaves its terminal: what would go there goes to the system's logger. */
  leaveTerminal(): void {
    if (!this.#toFile) this.#use(syslogSink());
  }

  #use(sink: Sink): void {
    configureSync({
      reset: true,
      sinks: { vuelo: sink },
      loggers: [
        { category: "vuelo", sinks: ["vuelo"], lowestLevel: this.#level },
        { category: ["logtape", "meta"], sinks: ["vuelo"], lowestLevel: "error" },
      ],
    });
  }
}

/** The log of this thread. */
export const log: Log = new Log();
log.configure({ level: "info", size: 0 });

/**
 * One place in the code that logs, with its own bound: whatever a guest or a peer does,
 * the place writes at most `perSecond` lines in a second and then says how many it left
 * out. Make one per call site, at module level.
 */
export class LogSite {
  #second = -1;
  #count = 0;
  #suppressed = 0;

  constructor(readonly perSecond: number = 5) {}

  /** Logs a line, unless this place has had its share. */
  write(level: LogLevel, message: string): void {
    const second = Math.floor(performance.now() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#count = 0;
    }
    if (this.#count >= this.perSecond) {
      this.#suppressed++;
      return;
    }
    this.#count++;
    if (this.#suppressed > 0) {
      message = `${message} (and ${this.#suppressed} more like it)`;
      this.#suppressed = 0;
    }
    log.write(level, message);
  }
}
