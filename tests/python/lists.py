"""What the raw messages of our Workload API carry: writes leaf.pem, between.pem, roots.pem and list-N.der of the first
message of FetchX509SVID into a folder, and says how many lists came with either call. With --until N it reads on until a
message has N lists."""

import argparse
import json
import os
import sys
import warnings

warnings.simplefilter("ignore")

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe._proto import workload_pb2 as pb


def split(der):
    """The certificates of a concatenation, by their own lengths."""
    while der:
        length, start = der[1], 2
        if length & 0x80:
            count = length & 0x7F
            length, start = int.from_bytes(der[2 : 2 + count], "big"), 2 + count
        yield x509.load_der_x509_certificate(der[: start + length])
        der = der[start + length :]


def call(channel, method, request, response, timeout):
    stub = channel.unary_stream(
        "/SpiffeWorkloadAPI/" + method,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )
    return stub(request, metadata=[("workload.spiffe.io", "true")], timeout=timeout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--write", required=True)
    parser.add_argument("--until", type=int, default=0)
    args = parser.parse_args()
    with grpc.insecure_channel(args.socket) as channel:
        for message in call(channel, "FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse, 30):
            if len(message.crl) >= args.until:
                break
        bundles = next(iter(call(channel, "FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse, 30)))
    chain = list(split(message.svids[0].x509_svid))
    roots = list(split(message.svids[0].bundle))
    pem = lambda certificates: b"".join(c.public_bytes(Encoding.PEM) for c in certificates)
    for name, text in [("leaf.pem", pem(chain[:1])), ("between.pem", pem(chain[1:])), ("roots.pem", pem(roots))]:
        with open(os.path.join(args.write, name), "wb") as file:
            file.write(text)
    for at, one in enumerate(message.crl):
        with open(os.path.join(args.write, "list-%d.der" % at), "wb") as file:
            file.write(one)
    print(
        json.dumps(
            {
                "serial": format(chain[0].serial_number, "x"),
                "chain": len(chain),
                "roots": len(roots),
                "lists": len(message.crl),
                "same": list(message.crl) == list(bundles.crl),
            }
        )
    )


sys.exit(main())
