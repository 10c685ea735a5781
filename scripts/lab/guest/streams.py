"""Connections that outlive a migration: streams checked byte by byte, datagrams, pings.

A connection begins with its number (8 bytes), by which both ends know it. Behind that,
each end sends a stream of its own that the other can compute, so that a byte that is lost,
doubled or changed is found the moment it arrives. One thread serves all connections.
"""

import collections
import errno
import hashlib
import os
import select
import socket
import struct
import threading
import time

BLOCK = 16384
NOISE = hashlib.shake_128(b"vuelo").digest(4 * BLOCK)
BEAT = 64
TCP_INFO = 11
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27


class Stream:
    """The bytes of one direction, from any position on."""

    def __init__(self, seed):
        self.seed = seed
        self.index = -1
        self.block = b""

    def at(self, position):
        """Returns the bytes from `position` to the end of its block."""
        index, offset = divmod(position, BLOCK)
        if index != self.index:
            start = (self.seed * 7919 + index * 61) % (3 * BLOCK)
            head = struct.pack(">QQ", self.seed, index)
            self.block = head + NOISE[start : start + BLOCK - len(head)]
            self.index = index
        return memoryview(self.block)[offset:]

    def differs(self, position, data):
        """Returns the position of the first byte of `data` that is wrong, or None."""
        view = memoryview(data)
        done = 0
        while done < len(view):
            want = self.at(position + done)[: len(view) - done]
            got = view[done : done + len(want)]
            if got != want:
                for offset in range(len(want)):
                    if got[offset] != want[offset]:
                        return position + done + offset
            done += len(want)
        return None


class Connection:
    """One end of a connection; all but `engine` fields may be read by any thread."""

    def __init__(self, number, sock, opener):
        self.number = number
        self.sock = sock
        self.outgoing = Stream(2 * number + (0 if opener else 1))
        self.incoming = Stream(2 * number + (1 if opener else 0))
        self.sent = self.received = self.limit = 0
        self.fin = self.finished = False
        self.beat = None
        self.due = 0.0
        self.reading = True
        self.bad = self.error = None
        self.ended = False
        self.last = self.progress = time.monotonic()
        self.gap = self.send_gap = 0.0
        self.local = list(sock.getsockname()[:2])
        self.remote = list(sock.getpeername()[:2])

    def fail(self, error):
        name = errno.errorcode.get(error.errno, str(error)) if error.errno else str(error)
        self.error = self.error or name

    def mask(self):
        """What to wait for."""
        if self.error:
            return 0
        wanted = select.EPOLLIN if self.reading and not self.ended else 0
        if self.beat is None and (self.sent < self.limit or self.fin and not self.finished):
            wanted |= select.EPOLLOUT
        return wanted

    def receive(self, buffer):
        try:
            size = self.sock.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(error)
            return
        if size == 0:
            self.ended = True
            return
        now = time.monotonic()
        self.gap = max(self.gap, now - self.last)
        self.last = now
        if self.bad is None:
            self.bad = self.incoming.differs(self.received, memoryview(buffer)[:size])
        self.received += size

    def send(self, most):
        try:
            while most > 0 and self.sent < self.limit:
                part = self.outgoing.at(self.sent)[: min(most, self.limit - self.sent)]
                size = self.sock.send(part)
                self.sent += size
                now = time.monotonic()
                self.send_gap = max(self.send_gap, now - self.progress)
                self.progress = now
                most -= size
            if self.fin and not self.finished and self.sent == self.limit:
                self.sock.shutdown(socket.SHUT_WR)
                self.finished = True
        except BlockingIOError:
            pass
        except OSError as error:
            self.fail(error)

    def report(self):
        now = time.monotonic()
        info = b""
        try:
            info = self.sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 104)
        except OSError:
            pass
        words = struct.unpack("24I", info[8:104]) if len(info) == 104 else (0,) * 24
        return {
            "number": self.number,
            "sent": self.sent,
            "limit": self.limit,
            "received": self.received,
            "bad": self.bad,
            "ended": self.ended,
            "finished": self.finished,
            "error": self.error,
            "gap": self.gap,
            "sendGap": self.send_gap,
            "waiting": now - self.last,
            "stalled": now - self.progress,
            "local": self.local,
            "remote": self.remote,
            "state": info[0] if info else 0,
            "unacked": words[4],
            "sendMss": words[2],
            "receiveMss": words[3],
        }


class Engine(threading.Thread):
    """Sends and receives on all connections; other threads hand work to it by `do`."""

    def __init__(self):
        super().__init__(daemon=True)
        self.poll = select.epoll()
        self.tasks = collections.deque()
        self.wake_in, self.wake_out = os.pipe()
        os.set_blocking(self.wake_in, False)
        self.poll.register(self.wake_in, select.EPOLLIN)
        self.connections = {}
        self.by_fd = {}
        self.masks = {}
        self.buffer = bytearray(1 << 18)

    def do(self, task):
        """Runs `task` in the engine's thread and returns what it returns."""
        done = threading.Event()
        result = []
        self.tasks.append((task, result, done))
        os.write(self.wake_out, b"x")
        done.wait()
        good, value = result
        if not good:
            raise value
        return value

    def add(self, connection):
        self.connections[connection.number] = connection
        descriptor = connection.sock.fileno()
        self.by_fd[descriptor] = connection
        self.masks[descriptor] = None
        self.update(connection)

    def remove(self, connection):
        descriptor = connection.sock.fileno()
        if self.masks.pop(descriptor, None) is not None:
            self.poll.unregister(descriptor)
        self.by_fd.pop(descriptor, None)
        self.connections.pop(connection.number, None)
        connection.sock.close()

    def update(self, connection):
        """Waits for what the connection wants; one that failed is not watched at all."""
        descriptor = connection.sock.fileno()
        wanted = None if connection.error else connection.mask()
        had = self.masks.get(descriptor)
        if wanted == had:
            return
        if wanted is None:
            self.poll.unregister(descriptor)
        elif had is None:
            self.poll.register(descriptor, wanted)
        else:
            self.poll.modify(descriptor, wanted)
        self.masks[descriptor] = wanted

    def run(self):
        while True:
            for descriptor, events in self.poll.poll(self.until_beat()):
                if descriptor == self.wake_in:
                    self.run_tasks()
                    continue
                connection = self.by_fd.get(descriptor)
                if connection is not None:
                    self.serve(connection, events)
            self.beats()

    def serve(self, connection, events):
        if events & select.EPOLLERR:
            number = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                connection.fail(OSError(number, os.strerror(number)))
        if events & (select.EPOLLIN | select.EPOLLHUP) and connection.reading:
            connection.receive(self.buffer)
        if events & select.EPOLLOUT:
            connection.send(4 * BLOCK)
        if events & select.EPOLLHUP and connection.ended:
            self.silence(connection)
        else:
            self.update(connection)

    def silence(self, connection):
        """Both directions have ended: there is nothing left to wait for."""
        descriptor = connection.sock.fileno()
        if self.masks.get(descriptor) is not None:
            self.poll.unregister(descriptor)
            self.masks[descriptor] = None

    def run_tasks(self):
        try:
            os.read(self.wake_in, 4096)
        except BlockingIOError:
            pass
        while self.tasks:
            task, result, done = self.tasks.popleft()
            try:
                result[:] = True, task()
            except BaseException as error:
                result[:] = False, error
            done.set()

    def until_beat(self):
        due = [c.due for c in self.connections.values() if c.beat is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def beats(self):
        now = time.monotonic()
        for connection in self.connections.values():
            if connection.error:
                connection.beat = None
            if connection.beat is None or connection.due > now:
                continue
            connection.due = max(connection.due + connection.beat, now)
            connection.limit = max(connection.limit, connection.sent + BEAT)
            connection.send(BEAT)

    def chosen(self, first, count):
        return [self.connections[n] for n in range(first, first + count)]


engine = Engine()
listeners = {}
loops = {}
sources = {}
held = []


def start_engine():
    if not engine.is_alive():
        engine.start()


def adopt(sock, number, opener):
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    engine.do(lambda: engine.add(Connection(number, sock, opener)))


def greet(sock):
    """Reads the number of a connection that was accepted, and takes it on."""
    try:
        sock.settimeout(60)
        number = b""
        while len(number) < 8:
            part = sock.recv(8 - len(number))
            if not part:
                return sock.close()
            number += part
        adopt(sock, struct.unpack(">Q", number)[0], False)
    except OSError:
        sock.close()


def accept_all(listener):
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=greet, args=(sock,), daemon=True).start()


def drop_segments(sock, drop):
    """Attaches a filter that keeps nothing of a segment, or detaches it."""
    if not drop:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        except FileNotFoundError:
            pass  # it hears already
        return
    program = struct.pack("=HBBI", 0x06, 0, 0, 0)  # return 0
    address = id(program) + bytes.__basicsize__ - 1  # of its content
    filter_ = struct.pack("@HP", 1, address)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)


# Operations of the agent.


def op_stream_listen(port):
    """Accepts connections on `port`, with buffers as the system gives them."""
    start_engine()
    if port in listeners:
        return
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    listener.listen(1024)
    listeners[port] = listener
    threading.Thread(target=accept_all, args=(listener,), daemon=True).start()


def op_stream_open(host, port, first, count=1, buffer=None):
    """Opens connections `first`, `first` + 1 and so on; buffer: SO_RCVBUF."""
    start_engine()
    for number in range(first, first + count):
        sock = socket.socket(family_of(host))
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(30)
        sock.connect((host, port))
        sock.sendall(struct.pack(">Q", number))
        adopt(sock, number, True)


def op_stream_set(
    first, count=1, limit=None, more=None, beat=None, read=None, fin=None, deaf=None, mark=False
):
    """Changes what connections do.

    limit: how many bytes to send in all (more: from here on, unless it has shut down);
    beat: a few bytes every so many seconds instead (0: stop); read: whether to take what
    comes; fin: shut down after the last byte; deaf: whether the kernel drops segments that
    come; mark: forget the longest gap.
    """

    def task():
        for connection in engine.chosen(first, count):
            if beat is not None:
                connection.beat = beat or None
                connection.due = time.monotonic()
                connection.limit = connection.sent
            if limit is not None:
                connection.limit = limit
            if more is not None and not connection.finished:
                connection.limit = connection.sent + more
            if read is not None:
                connection.reading = read
            if fin is not None:
                connection.fin = fin
            if deaf is not None:
                drop_segments(connection.sock, deaf)
            if mark:
                connection.gap = connection.send_gap = 0.0
                connection.last = connection.progress = time.monotonic()
            engine.update(connection)

    engine.do(task)


def op_stream_report(first, count=1):
    return engine.do(lambda: [c.report() for c in engine.chosen(first, count)])


def op_stream_known(first, count=1):
    """How many of these connections are there."""
    start_engine()
    numbers = range(first, first + count)
    return engine.do(lambda: sum(n in engine.connections for n in numbers))


def op_stream_close():
    """Closes every connection, without a word about the data that is left."""

    def task():
        for connection in list(engine.connections.values()):
            engine.remove(connection)

    start_engine()
    engine.do(task)


class Loop(threading.Thread):
    """Asks again and again, and notes the answers; `ask` is given the turn's number."""

    def __init__(self, ask, interval):
        super().__init__(daemon=True)
        self.ask, self.interval = ask, interval
        self.stopped = threading.Event()
        self.outcomes = {}
        self.slowest = 0.0
        self.lock = threading.Lock()
        self.children = []

    def run(self):
        number = 0
        while not self.stopped.is_set():
            child = threading.Thread(target=self.once, args=(number,), daemon=True)
            child.start()
            self.children = [c for c in self.children if c.is_alive()] + [child]
            number += 1
            self.stopped.wait(self.interval)

    def once(self, number):
        start = time.monotonic()
        try:
            outcome = self.ask(number) or "good"
        except OSError as error:
            outcome = errno.errorcode.get(error.errno, str(error)) if error.errno else "timeout"
        with self.lock:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
            if outcome == "good":
                self.slowest = max(self.slowest, time.monotonic() - start)


def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def connector(host, port):
    """Connects, and has one word echoed."""

    def ask(number):
        word = struct.pack(">Q", number)
        with socket.socket(family_of(host)) as sock:
            sock.settimeout(30)
            sock.connect((host, port))
            sock.sendall(word)
            reply = b""
            while len(reply) < 8:
                part = sock.recv(8 - len(reply))
                if not part:
                    return "closed"
                reply += part
            return None if reply == word else "damaged"

    return ask


def datagrams(host, port):
    """Has numbered datagrams echoed, all from one socket."""
    sock = socket.socket(family_of(host), socket.SOCK_DGRAM)
    sock.connect((host, port))
    return numbered(sock, lambda number: struct.pack(">Q", number), lambda data: data)


def pings(host, _port):
    """Pings with one identifier. The kernel fills in the identifier and the checksum."""
    inet6 = ":" in host
    protocol = socket.IPPROTO_ICMPV6 if inet6 else socket.IPPROTO_ICMP
    sock = socket.socket(family_of(host), socket.SOCK_DGRAM, protocol)
    sock.connect((host, 0))
    kind = 128 if inet6 else 8

    def request(number):
        head = struct.pack(">BBHHH", kind, 0, 0, 0, number & 0xFFFF)
        return head + struct.pack(">Q", number)

    return numbered(sock, request, lambda data: data[8:])


def numbered(sock, request, content):
    """Sends requests with a number and waits for the reply with the same."""
    waiting = {}

    def receive():
        while True:
            try:
                data = content(sock.recv(2048))
            except OSError:
                continue
            if len(data) == 8:
                event = waiting.get(struct.unpack(">Q", data)[0])
                if event is not None:
                    event.set()

    threading.Thread(target=receive, daemon=True).start()

    def ask(number):
        event = waiting[number] = threading.Event()
        sock.send(request(number))
        answered = event.wait(3)
        del waiting[number]
        return None if answered else "unanswered"

    return ask


ASKERS = {"connect": connector, "udp": datagrams, "ping": pings}


def op_loop_start(name, kind, host, port=0, interval=0.02):
    """Begins to ask: kind connect, udp or ping."""
    loop = loops[name] = Loop(ASKERS[kind](host, port), interval)
    loop.start()


def op_loop_report(name):
    loop = loops[name]
    with loop.lock:
        return {"outcomes": dict(loop.outcomes), "slowest": loop.slowest}


def op_loop_stop(name):
    """Stops asking, waits for the last answers, and returns the outcomes."""
    loop = loops.pop(name)
    loop.stopped.set()
    loop.join()
    for child in loop.children:
        child.join()
    return {"outcomes": loop.outcomes, "slowest": loop.slowest}


def op_hold_port(host, port):
    """Takes a TCP port of this host, so that nobody else can have it."""
    sock = socket.socket(family_of(host))
    sock.bind((host, port))
    held.append(sock)


def op_release_ports():
    while held:
        held.pop().close()


def op_datagrams_serve(port):
    """Echoes datagrams, and notes where they come from."""
    if port in sources:
        sources[port].clear()
        return
    seen = sources[port] = {}
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))

    def loop():
        while True:
            data, address = sock.recvfrom(65536)
            key = f"{address[0]} {address[1]}"
            seen[key] = seen.get(key, 0) + 1
            sock.sendto(data, address)

    threading.Thread(target=loop, daemon=True).start()


def op_datagrams_seen(port):
    return dict(sources[port])
