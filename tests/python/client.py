"""A foreign client for our Workload API: the stock PyPI package `spiffe` on gRPC's C core. Prints one JSON line for
each thing that happens. Nothing of hopguard is in it."""

import argparse
import base64
import json
import os
import sys
import threading
import warnings

warnings.simplefilter("ignore")

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import WorkloadApiClient, X509Source
from spiffe._proto import workload_pb2 as pb


def say(**what):
    print(json.dumps(what), flush=True)


def svid(one):
    return {
        "id": str(one.spiffe_id),
        "serial": format(one.leaf.serial_number, "x"),
        "not_before": one.leaf.not_valid_before_utc.timestamp(),
        "not_after": one.leaf.not_valid_after_utc.timestamp(),
    }


def fetch(args):
    """One fetch of everything by the stock client; with --write also as files."""
    with WorkloadApiClient(args.socket) as client:
        svids = client.fetch_x509_svids(timeout=10)
        bundles = client.fetch_x509_bundles(timeout=10)
    domain = svids[0].spiffe_id.trust_domain
    roots = bundles.get_bundle_for_trust_domain(domain).x509_authorities
    if args.write:
        pem = lambda certificates: b"".join(c.public_bytes(Encoding.PEM) for c in certificates)
        with open(os.path.join(args.write, "svid.pem"), "wb") as file:
            file.write(pem(svids[0].cert_chain))
        with open(os.path.join(args.write, "bundle.pem"), "wb") as file:
            file.write(pem(roots))
        with open(os.path.join(args.write, "key.pem"), "wb") as file:
            key = svids[0].private_key
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    say(svids=[svid(one) for one in svids], roots=sorted(base64.b64encode(r.public_bytes(Encoding.DER)).decode() for r in roots))


def stream(args):
    """The stock client's watcher: every update as it comes, until stdin closes."""

    def update(context):
        say(svids=[svid(one) for one in context.x509_svids])

    client = WorkloadApiClient(args.socket)
    client.stream_x509_contexts(on_success=update, on_error=lambda error: say(error=str(error)))
    sys.stdin.read()


def source(args):
    """X509Source until its SVID has changed."""
    first = None
    changed = threading.Event()
    with X509Source(socket_path=args.socket, timeout_in_seconds=10) as source:
        source.subscribe_for_updates(changed.set)
        first = source.get_x509_context().default_svid
        say(svid=svid(first))
        while True:
            if not changed.wait(30):
                say(error="no rotation within 30 s")
                return
            changed.clear()
            now = source.get_x509_context().default_svid
            if now.leaf.serial_number != first.leaf.serial_number:
                say(svid=svid(now))
                return


def raw(args):
    """A bare gRPC call: each message's IDs and hints, then the status that ended it."""
    requests = {
        "FetchX509SVID": (pb.X509SVIDRequest(), pb.X509SVIDResponse),
        "FetchX509Bundles": (pb.X509BundlesRequest(), pb.X509BundlesResponse),
        "FetchJWTSVID": (pb.JWTSVIDRequest(audience=["a"]), pb.JWTSVIDResponse),
        "FetchJWTBundles": (pb.JWTBundlesRequest(), pb.JWTBundlesResponse),
        "ValidateJWTSVID": (pb.ValidateJWTSVIDRequest(audience="a", svid="b"), pb.ValidateJWTSVIDResponse),
        "NoSuchMethod": (pb.X509SVIDRequest(), pb.X509SVIDResponse),
    }
    request, response = requests[args.method]
    metadata = [tuple(header.split("=", 1)) for header in args.header]
    with grpc.insecure_channel(args.socket) as channel:
        call = channel.unary_stream(
            "/SpiffeWorkloadAPI/" + args.method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        try:
            for message in call(request, metadata=metadata, timeout=args.timeout):
                if isinstance(message, pb.X509SVIDResponse):
                    say(
                        ids=[one.spiffe_id for one in message.svids],
                        hints=[one.hint for one in message.svids],
                        bundled=all(len(one.bundle) > 0 for one in message.svids),
                        serials=[base64.b64encode(one.x509_svid[:40]).decode() for one in message.svids],
                    )
                else:
                    say(bundles=sorted(message.bundles))
                if args.first:
                    return
        except grpc.RpcError as error:
            say(status=error.code().name, details=error.details())
        else:
            say(status="OK")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--uid", type=int, help="become this uid and gid before anything is connected")
    parser.add_argument("--write")
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--timeout", type=float, default=30)
    parser.add_argument("--method", default="FetchX509SVID")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("what", choices=["fetch", "stream", "source", "raw"])
    parser.add_argument("socket")
    args = parser.parse_args()
    if args.uid is not None:
        os.setgroups([])
        os.setresgid(args.uid, args.uid, args.uid)
        os.setresuid(args.uid, args.uid, args.uid)
    try:
        {"fetch": fetch, "stream": stream, "source": source, "raw": raw}[args.what](args)
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")


main()
