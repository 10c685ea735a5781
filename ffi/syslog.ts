/** The system's logger (syslog(3)), for a process without a terminal or a log file. */
import { rare } from "./libc.ts";

const sys = rare({
  /** void tzset(void) */
  tzset: { parameters: [], result: "void" },
  /** void openlog(const char *ident, int option, int facility) */
  openlog: { parameters: ["buffer", "i32", "i32"], result: "void" },
  /** void syslog(int priority, const char *format, ...); here without arguments */
  syslog: { parameters: ["i32", "buffer"], result: "void" },
});

/** Severities (RFC 5424, section 6.2.1) that vuelo uses. */
export const SyslogSeverity = { error: 3, warning: 4, info: 6, debug: 7 } as const;

const LOG_PID = 0x01;
const LOG_NDELAY = 0x08;
const LOG_DAEMON = 3 << 3;

const encoder = new TextEncoder();
/** libc keeps the pointer that it gets, so the name must never move or go. */
const ident = encoder.encode("vuelo\0");

/** Connects to the logger and reads the time zone at once, while the process still may. */
export function openSyslog(): void {
  sys.tzset();
  sys.openlog(ident, LOG_PID | LOG_NDELAY, LOG_DAEMON);
}

/** Hands one line to the logger; a line that cannot be delivered is lost. */
export function writeSyslog(severity: number, text: string): void {
  // The text takes the place of the format: nothing in it may be a conversion.
  const format = text.replaceAll("%", "%%").replaceAll("\0", " ");
  sys.syslog(severity, encoder.encode(format + "\0"));
}
