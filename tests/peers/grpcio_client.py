"""A grpcio client that makes one call of Upsert and prints as JSON what it got.

The port is its argument. `details` are the messages of the google.rpc.Status in
`grpc-status-details-bin`, by their type, read without any generated code.
"""

import json
import sys

import grpc

# a field that nobody knows, of 2 MiB: more than is sent before the answer comes
LARGE = b"\x7a\x80\x80\x80\x01" + bytes(2 << 20)


def fields(message):
    """The fields of a protobuf message: numbers as int, the others as bytes."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    found = []
    while at < len(message):
        tag = number()
        if tag & 7 == 0:
            value = number()
        elif tag & 7 == 2:
            length = number()
            value = message[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {tag & 7}")
        found.append((tag >> 3, value))
    return found


def details(status):
    """What the status carries: seconds and nanoseconds, or reason and domain."""
    found = {}
    for field, value in fields(status):
        if field == 3:
            parts = dict(fields(value))
            name = parts[1].decode().rpartition("/")[2]
            message = dict(fields(parts[2]))
            if name == "google.rpc.RetryInfo":
                delay = dict(fields(message[1]))
                found[name] = delay.get(1, 0) + delay.get(2, 0) / 1e9
            else:
                found[name] = [message[1].decode(), message[2].decode()]
    return found


def main():
    with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}") as channel:
        upsert = channel.unary_unary("/tower_weir.testkit.v1.VectorIndex/Upsert")
        call = upsert.future(LARGE, timeout=20)
        code = call.code()
        trailing = dict(call.trailing_metadata())
        trailing.pop("date", None)  # the server writes it into whatever comes first
        status = trailing.pop("grpc-status-details-bin", None)
        report = {
            "code": code.name,
            "message": call.details(),
            "initial": dict(call.initial_metadata()),
            "trailing": trailing,
        }
        if status is not None:
            parts = dict(fields(status))
            report["status"] = [parts[1], parts[2].decode()]
            report["details"] = details(status)
        print(json.dumps(report))


main()
