"""A camera's RTSP server, as little of it as a player needs: H.264 over RTP, inside the TCP connection."""

import re
import socket
import socketserver
import struct
import threading
import time
from contextlib import suppress

import av
import numpy as np

SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
c=IN IP4 0.0.0.0
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track0
"""


class Packets(list):
    """What PyAV's RTP muxer writes: a packet at a time."""

    def write(self, data):
        self.append(bytes(data))
        return len(data)


def rtp_packets(pictures: np.ndarray, rate: int = 25) -> list[bytes]:
    """Encode pictures, (N, H, W, 3) RGB, and cut them into RTP packets."""
    packets = Packets()
    with av.open(packets, "w", format="rtp", options={"packetsize": "600"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"tune": "zerolatency", "preset": "ultrafast", "crf": "12"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return [packet for packet in packets if not 200 <= packet[1] <= 204]  # without RTCP's reports


class Camera(socketserver.ThreadingTCPServer):
    """Plays the same pictures to each visitor; a visit may be cut short.

    Args:
        packets: as `rtp_packets` makes them.
        visits: how each visit goes: after how many packets it ends, and how ("drop" the connection, or go
            "silent"); visitors after the last one are sent away.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, packets: list[bytes], visits: list[tuple[int, str]]) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.packets, self.visits = packets, list(visits)
        self.asked: list[str] = []
        self.silent, self.closing = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"rtsp://me:secret@127.0.0.1:{self.server_address[1]}/live"

    def __exit__(self, *_):
        self.closing.set()
        self.shutdown()
        self.server_close()


class Visit(socketserver.StreamRequestHandler):
    """One connection: answers requests until PLAY, then sends packets."""

    def handle(self):
        if not self.server.visits:
            return
        packets, end = self.server.visits.pop(0)
        while request := self.read_request():
            method, number = request.split()[0], re.search(r"CSeq: *(\d+)", request, re.IGNORECASE)[1]
            self.server.asked.append(method)
            more, body = self.answer(method, request)
            head = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
            self.wfile.write((head + body).encode())
            if method == "PLAY":
                self.play(self.server.packets[:packets], end)
                return

    def read_request(self) -> str:
        lines = []
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            lines.append(line)
        return b"".join(lines).decode()

    def answer(self, method: str, request: str) -> tuple[str, str]:
        if method == "OPTIONS":
            return "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""
        if method == "DESCRIBE":
            return "Content-Type: application/sdp\r\n", SDP.replace("\n", "\r\n")
        if method == "SETUP":
            assert "RTP/AVP/TCP" in request, request
            return "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 7\r\n", ""
        return "Session: 7\r\n", ""

    def play(self, packets: list[bytes], end: str) -> None:
        with suppress(OSError):  # the player may leave first
            for packet in packets:
                self.wfile.write(struct.pack("!cBH", b"$", 0, len(packet)) + packet)
                time.sleep(0.0005)
            if end == "silent":
                self.server.silent.set()
                self.server.closing.wait()
            self.connection.shutdown(socket.SHUT_RDWR)
