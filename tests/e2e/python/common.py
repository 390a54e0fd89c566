"""What the client and its checks share: stubs made from proto/, expectations, refusals read by their stable reason."""

import atexit
import importlib
import importlib.resources
import pathlib
import shutil
import sys
import tempfile
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

# For calls that must be answered: the deadline in seconds, and the channel may first have to connect.
WAIT = {"timeout": 10, "wait_for_ready": True}


def generate(proto_dir):
    """Makes the stubs from the .proto files; they are removed at the end."""
    out = tempfile.mkdtemp(prefix="elph-python-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    command = ["protoc", f"-I{proto_dir}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    files = sorted(str(path.relative_to(proto_dir)) for path in pathlib.Path(proto_dir).glob("elph/**/*.proto"))
    if protoc.main(command + files) != 0:
        sys.exit("the stubs could not be made")
    sys.path.insert(0, out)


def stubs(name):
    return importlib.import_module(f"elph.agent.v1.{name}_pb2"), importlib.import_module(f"elph.agent.v1.{name}_pb2_grpc")


def local(socket, **options):
    """A channel over the Unix socket; grpc's options with two underscores for each dot."""
    given = [("grpc.default_authority", "localhost")] + [(name.replace("__", "."), value) for name, value in options.items()]
    return grpc.insecure_channel(f"unix:{socket}", options=given)


def expect(what, seen, wanted):
    if seen != wanted:
        sys.exit(f"{what}: expected {wanted!r}, saw {seen!r}")
    print(f"ok  {what}")


def error_of(what, ask):
    """The error of something that must not succeed."""
    try:
        answer = ask()
    except grpc.RpcError as error:
        return error
    sys.exit(f"{what}: was accepted: {answer!r}")


def details_of(error):
    """The typed details of an error, by the name of their type."""
    status = rpc_status.from_call(error)
    details = {}
    for packed in status.details if status else []:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            message = kind()
            if packed.Unpack(message):
                details[kind.__name__] = message
    return details


def refused(what, ask, code, reason):
    """The error carries its code and its stable reason; returns the details."""
    error = error_of(what, ask)
    details = details_of(error)
    info = details.get("ErrorInfo")
    expect(f"{what}: {error.details()}", (error.code(), info and info.reason), (code, reason))
    return details


def until(what, ask):
    """Asks again until there is an answer, for ten seconds at most."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = ask()
        if found:
            print(f"ok  {what}")
            return found
        time.sleep(0.05)
    sys.exit(f"{what}: did not happen")
