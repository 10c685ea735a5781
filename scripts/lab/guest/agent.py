"""Makes and serves the connections of the tests, in the guest and at its peers.

Reads requests from the port given as argument (else from standard input), one JSON object
a line: {"id": number, "op": name, ...arguments}. Answers each, in any order, with
{"id": number, "result": value} or {"id": number, "error": text}. Every request runs in a
thread of its own. Each stream carries its length, and is followed by its SHA-256.
"""

import errno
import hashlib
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import streams

SOURCE, SINK, ECHO, LATE_ECHO, RESET, SILENT = range(7000, 7006)
UDP_ECHO, UDP_JOINED = 7010, 7011
UDP_SEGMENT, UDP_GRO = 103, 104
CHUNK = 65536
NOISE = os.urandom(CHUNK)

lock = threading.Lock()
served = {}
children = {}
listening = set()


def chunks(size):
    """Yields `size` bytes in chunks, no two alike."""
    index = 0
    while size > 0:
        chunk = memoryview(struct.pack(">Q", index) + NOISE[8:])[:size]
        yield chunk
        size -= len(chunk)
        index += 1


def send_stream(sock, size):
    """Sends `size` bytes and returns the hexadecimal SHA-256 of them."""
    digest = hashlib.sha256()
    for chunk in chunks(size):
        sock.sendall(chunk)
        digest.update(chunk)
    return digest.hexdigest()


def receive_stream(sock, size, stall=0):
    """Receives up to `size` bytes (all that come if None): count and SHA-256."""
    digest = hashlib.sha256()
    buffer = bytearray(4 * CHUNK)
    view = memoryview(buffer)
    count = 0
    while size is None or count < size:
        want = len(buffer) if size is None else min(len(buffer), size - count)
        got = sock.recv_into(view[:want])
        if got == 0:
            break
        digest.update(view[:got])
        count += got
        if stall:
            time.sleep(stall)
            stall = 0
    return count, digest.hexdigest()


def receive_exactly(sock, size):
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError(f"the stream ended after {len(data)} of {size} bytes")
        data += part
    return data


def connect(host, port, timeout=None, source=None):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.settimeout(timeout)
        if source is not None:
            sock.bind((source, 0))
        sock.connect((host, port))
        sock.settimeout(60)
    except BaseException:
        sock.close()
        raise
    return sock


# Servers: each gets an accepted connection, and closes it by returning.


def serve_source(sock):
    size = struct.unpack(">Q", receive_exactly(sock, 8))[0]
    sock.sendall(bytes.fromhex(send_stream(sock, size)))


def serve_sink(sock):
    count, digest = receive_stream(sock, None)
    sock.sendall(struct.pack(">Q", count) + bytes.fromhex(digest))


def serve_echo(sock):
    while data := sock.recv(CHUNK):
        sock.sendall(data)


def serve_late_echo(sock):
    data = b""
    while part := sock.recv(CHUNK):
        data += part
    sock.sendall(data)


def serve_reset(sock):
    receive_exactly(sock, 1)
    sock.sendall(NOISE)
    receive_exactly(sock, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def serve_silent(sock):
    sock.settimeout(None)
    while sock.recv(CHUNK):
        pass


def plain(address):
    return address[0].removeprefix("::ffff:").split("%")[0]


def note(port, address, change):
    with lock:
        entry = served.setdefault(port, {"count": 0, "open": 0, "last": None})
        entry["open"] += change
        if change >= 0:
            entry["count"] += 1
            entry["last"] = [plain(address), address[1]]


def serve_connection(port, handler, sock, address):
    try:
        with sock:
            sock.settimeout(120)
            handler(sock)
    except (OSError, EOFError):
        pass
    finally:
        note(port, address, -1)


def accept_all(listener, port, handler):
    while True:
        sock, address = listener.accept()
        note(port, address, 1)
        arguments = (port, handler, sock, address)
        threading.Thread(target=serve_connection, args=arguments, daemon=True).start()


def listen_tcp(port, handler):
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    listener.listen(1024)
    listening.add(port)
    arguments = (listener, port, handler)
    threading.Thread(target=accept_all, args=arguments, daemon=True).start()


def rejoined(control):
    """Ancillary data of a joined message, for one that is to be cut up as it was."""
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_UDP, UDP_GRO):
            kind, data = UDP_SEGMENT, struct.pack("=H", *struct.unpack("=i", data))
        yield level, kind, data


def answer_datagrams(port, answer, joined=False):
    """Answers each datagram from the address it was sent to (IPV6_PKTINFO).

    Those of one sender and length may come joined, and are answered as one message then.
    """
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    if joined:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    sock.bind(("::", port))

    def loop():
        while True:
            data, control, _, address = sock.recvmsg(65536, 256)
            note(port, address, 0)
            try:
                sock.sendmsg([answer(data)], rejoined(control), 0, address)
            except OSError:
                pass

    threading.Thread(target=loop, daemon=True).start()


def name_reply(names):
    """Returns a DNS responder (RFC 1035) for `names`: name -> list of addresses."""

    def reply(query):
        at, labels = 12, []
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12 : at + 5]
        kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
        known = names.get(".".join(labels).lower())
        answers = b""
        count = 0
        for address in known or []:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            if kind == (28 if family == socket.AF_INET6 else 1):
                data = socket.inet_pton(family, address)
                answers += struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(data)) + data
                count += 1
        flags = 0x8180 if known is not None else 0x8183
        header = query[:2] + struct.pack(">HHHHH", flags, 1, count, 0, 0)
        return header + question + answers

    return reply


def http_handler(size):
    """Returns a handler for GET (a file of noise) and PUT (answers with the SHA-256)."""
    body = b"".join(chunks(size))

    def serve(sock):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += receive_exactly(sock, 1)
        if head.startswith(b"GET"):
            content = body
            if b".sha256 " in head.split(b"\r\n")[0]:
                content = hashlib.sha256(body).hexdigest().encode() + b"\n"
        else:
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            content = receive_stream(sock, length)[1].encode() + b"\n"
        start = f"HTTP/1.0 200 OK\r\nContent-Length: {len(content)}\r\n\r\n"
        sock.sendall(start.encode() + content)

    return serve


# Operations: what a request may ask for.


def op_serve():
    """Starts the servers of the ports above, unless they run."""
    if SOURCE in listening:
        return
    listen_tcp(SOURCE, serve_source)
    listen_tcp(SINK, serve_sink)
    listen_tcp(ECHO, serve_echo)
    listen_tcp(LATE_ECHO, serve_late_echo)
    listen_tcp(RESET, serve_reset)
    listen_tcp(SILENT, serve_silent)
    answer_datagrams(UDP_ECHO, lambda data: data)
    answer_datagrams(UDP_JOINED, lambda data: data, True)


def op_serve_echo(port):
    """Serves echo on one more port, over TCP and UDP."""
    listen_tcp(port, serve_echo)
    answer_datagrams(port, lambda data: data)


def op_serve_names(names, port=53):
    answer_datagrams(port, name_reply(names))


def op_serve_http(size, port=80):
    listen_tcp(port, http_handler(size))


def op_stats():
    """How many connections (datagrams) each port saw, how many are open, the last peer."""
    with lock:
        return {str(port): dict(entry) for port, entry in served.items()}


def op_download(host, bytes, port=SOURCE, stall=0):
    start = time.monotonic()
    with connect(host, port, 10) as sock:
        sock.sendall(struct.pack(">Q", bytes))
        count, received = receive_stream(sock, bytes, stall)
        sent = receive_exactly(sock, 32).hex() if count == bytes else None
    seconds = time.monotonic() - start
    return {"bytes": count, "sent": sent, "received": received, "seconds": seconds}


def op_upload(host, bytes, port=SINK):
    start = time.monotonic()
    with connect(host, port, 10) as sock:
        sent = send_stream(sock, bytes)
        sock.shutdown(socket.SHUT_WR)
        count = struct.unpack(">Q", receive_exactly(sock, 8))[0]
        received = receive_exactly(sock, 32).hex()
    seconds = time.monotonic() - start
    return {"bytes": count, "sent": sent, "received": received, "seconds": seconds}


def op_echo(host, bytes, port=ECHO, source=None):
    """Sends, closes its own half, and reads all that comes back until the end."""
    with connect(host, port, 10, source) as sock:
        digest = []
        sender = threading.Thread(
            target=lambda: (
                digest.append(send_stream(sock, bytes)),
                sock.shutdown(socket.SHUT_WR),
            )
        )
        sender.start()
        count, received = receive_stream(sock, None)
        sender.join()
    return {"bytes": count, "sent": digest[0], "received": received}


def op_connect(host, port, timeout=None):
    """Tries to connect: how it ended, and after how long."""
    start = time.monotonic()
    try:
        connect(host, port, timeout).close()
        outcome = "connected"
    except TimeoutError as error:
        outcome = errno.errorcode[error.errno] if error.errno else "timeout"
    except OSError as error:
        outcome = errno.errorcode.get(error.errno, str(error))
    return {"outcome": outcome, "seconds": time.monotonic() - start}


def op_reset(host, port=RESET):
    """Talks to the port that resets mid-stream: what arrived, and how it ended."""
    count = 0
    with connect(host, port, 10) as sock:
        try:
            sock.sendall(b"a")
            count = len(receive_exactly(sock, CHUNK))
            sock.sendall(b"b")
            outcome = "end of stream" if not sock.recv(1) else "data"
        except OSError as error:
            outcome = errno.errorcode.get(error.errno, str(error))
    return {"bytes": count, "outcome": outcome}


def op_send_reset(host, port=SINK):
    """Opens a connection, sends some data, and resets it."""
    with connect(host, port, 10) as sock:
        sock.sendall(NOISE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def op_many(host, count, bytes, port=ECHO):
    """Holds `count` connections open at once, then echoes `bytes` over each."""
    socks = [connect(host, port, 60) for _ in range(count)]
    selector = selectors.DefaultSelector()
    expected = NOISE[:bytes]
    good = 0
    errors = {}
    for sock in socks:
        sock.sendall(expected)
        selector.register(sock, selectors.EVENT_READ, bytearray())
    left = count
    while left > 0:
        ready = selector.select(30)
        if not ready:
            errors["timeout"] = left
            break
        for key, _ in ready:
            try:
                part = key.fileobj.recv(CHUNK)
            except OSError as error:
                part = b""
                name = errno.errorcode.get(error.errno, str(error))
                errors[name] = errors.get(name, 0) + 1
            key.data.extend(part)
            if len(key.data) >= bytes or not part:
                good += key.data == expected
                left -= 1
                selector.unregister(key.fileobj)
    for sock in socks:
        sock.close()
    return {"good": good, "errors": errors}


def op_short(host, count, port=ECHO):
    """Opens `count` connections one after the other, each with one request and reply."""
    start = time.monotonic()
    good = 0
    errors = {}
    for index in range(count):
        request = struct.pack(">Q", index)
        try:
            with connect(host, port, 10) as sock:
                sock.sendall(request)
                good += receive_exactly(sock, 8) == request
        except (OSError, EOFError) as error:
            errors[repr(error)] = errors.get(repr(error), 0) + 1
    return {"good": good, "errors": errors, "seconds": time.monotonic() - start}


def op_udp_echo(host, first, last, step=1, port=UDP_ECHO, tries=3):
    """Echoes a datagram of each size, from one socket: which failed, which were retried."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    failed, retried = [], []
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.connect((host, port))
        sock.settimeout(2)
        for size in range(first, last + 1, step):
            data = (struct.pack(">Q", size) + NOISE[8:])[:size]
            for attempt in range(tries):
                try:
                    sock.send(data)
                    while sock.recv(65536) != data:
                        pass
                    break
                except OSError as error:
                    entry = [size, errno.errorcode.get(error.errno, str(error))]
                    (failed if attempt + 1 == tries else retried).append(entry)
    return {"failed": failed[:20], "retried": retried[:20]}


def op_udp_joined(host, size, count, port=UDP_JOINED):
    """Echoes `count` datagrams that are sent as one message: lengths of what came back."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    data = b"".join(chunks(size * count))
    got = b""
    lengths = []
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        sock.connect((host, port))
        sock.settimeout(5)
        sock.send(data)
        while len(got) < len(data):
            part = sock.recv(65536)
            lengths.append(len(part))
            got += part
    if got != data:
        raise ValueError("other bytes came back")
    return lengths


def op_resolve(name, server, kind=1, timeout=5):
    """Asks `server` for the addresses (kind 1: A, 28: AAAA) of `name`."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack(">HHHHHH", 0x5AA5, 0x0100, 1, 0, 0, 0)
    query += labels + b"\0" + struct.pack(">HH", kind, 1)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect((server, 53))
        sock.send(query)
        reply = sock.recv(4096)
    if reply[:2] != query[:2]:
        raise ValueError("the reply answers another question")
    count, at, found = struct.unpack(">H", reply[6:8])[0], len(query), []
    for _ in range(count):
        size = struct.unpack(">H", reply[at + 10 : at + 12])[0]
        data = reply[at + 12 : at + 12 + size]
        found.append(socket.inet_ntop(socket.AF_INET6 if size == 16 else socket.AF_INET, data))
        at += 12 + size
    return {"code": reply[3] & 15, "addresses": found}


def op_exec(argv, timeout=60, input=None):
    """Runs a program to its end."""
    done = subprocess.run(
        argv, capture_output=True, text=True, errors="replace", timeout=timeout, input=input
    )
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def op_spawn(argv):
    """Starts a program, whose output goes to the console."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    children[child.pid] = child
    return child.pid


def op_kill(pid, signal=15):
    child = children.pop(pid)
    child.send_signal(signal)
    return child.wait()


def op_write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def op_wait(path, contains, timeout=30):
    """Waits until the file at `path` contains a string, and returns its text."""
    end = time.monotonic() + timeout
    while True:
        try:
            with open(path) as file:
                text = file.read()
        except OSError:
            text = ""
        if contains in text:
            return text
        if time.monotonic() > end:
            raise TimeoutError(f"{path} has no {contains!r}: {text!r}")
        time.sleep(0.02)


# linux/if_packet.h; Python names only some of it.
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_CSUMNOTREADY = 263, 8, 1 << 3
ETHERTYPES = {0x0800: ("ip4", 23), 0x86DD: ("ip6", 20)}
PROTOCOLS = {6: "tcp", 17: "udp"}
watches = {}


def watch_frames(sock, seen, stop):
    """Notes of every frame what the driver was given, or gave."""
    while not stop.is_set():
        try:
            head, control, _, address = sock.recvmsg(64, 256)
        except TimeoutError:
            continue
        version, protocol_at = ETHERTYPES.get(address[1], (None, 0))
        if version is None or head[protocol_at] not in PROTOCOLS:
            continue
        status, length = struct.unpack("II", control[0][2][:8])
        way = "out" if address[2] == socket.PACKET_OUTGOING else "in"
        kind = f"{way} {PROTOCOLS[head[protocol_at]]} {version}"
        entry = seen.setdefault(kind, {"frames": 0, "longest": 0, "partial": 0})
        entry["frames"] += 1
        entry["longest"] = max(entry["longest"], length)
        entry["partial"] += bool(status & TP_STATUS_CSUMNOTREADY)


def op_watch(interface="eth0"):
    """Watches an interface's frames until `watched`."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.bind((interface, 3))
    sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    sock.settimeout(0.1)
    seen, stop = {}, threading.Event()
    thread = threading.Thread(target=watch_frames, args=(sock, seen, stop))
    thread.start()
    watches[interface] = (sock, seen, stop, thread)


def op_watched(interface="eth0"):
    """Frames by direction and protocol: how many, the longest, with partial checksums."""
    sock, seen, stop, thread = watches.pop(interface)
    stop.set()
    thread.join()
    sock.close()
    return seen


OPERATIONS = {
    name[3:]: value
    for name, value in {**vars(streams), **globals()}.items()
    if name[:3] == "op_"
}


def answer(request, output):
    try:
        operation = OPERATIONS[request.pop("op")]
        number = request.pop("id")
        reply = {"id": number, "result": operation(**request)}
    except BaseException as error:
        reply = {"id": number, "error": f"{type(error).__name__}: {error}"}
    line = (json.dumps(reply) + "\n").encode()
    with lock:
        while line:
            line = line[os.write(output, line) :]


def main():
    if len(sys.argv) > 1:
        port = os.open(sys.argv[1], os.O_RDWR)
        source, output = port, port
    else:
        source, output = 0, 1
    os.write(output, b'{"ready": true}\n')
    pending = b""
    while True:
        data = os.read(source, CHUNK)
        if not data:
            if source == 0:
                os._exit(0)
            time.sleep(0.05)  # nobody holds the host's end of the port
        pending += data
        *lines, pending = pending.split(b"\n")
        for line in lines:
            arguments = (json.loads(line), output)
            threading.Thread(target=answer, args=arguments, daemon=True).start()


main()
