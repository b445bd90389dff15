"""Three foreign clients of the Workload API behind one face, for tests/tests/ca_conformance:

    conformance.py spiffe|defakto|raw SOCKET              one JSON request a line on stdin, one JSON answer a line
    conformance.py spiffe|defakto|raw SOCKET x509|jwt     a stream: one line for each message, then its end

`spiffe` and `defakto` are the PyPI packages: their own calls where they have one for the question, else the stub that
they generated. `raw` has no .proto at all: it asks the server's reflection for the messages. An answer is what was
fetched, {"status": ...} for what the server said, or {"client": ...} for what the library itself would not do. Nothing of
hopguard is in here."""

import asyncio
import json
import sys
import threading
import warnings

warnings.simplefilter("ignore")

import grpc

HEADER = ("workload.spiffe.io", "true")
PATIENCE = 20


def say(what):
    print(json.dumps(what), flush=True)


def told(error):
    """What the server said, wherever in the chain of exceptions it stands."""
    text, seen = f"{type(error).__name__}: {error}", error
    while seen is not None:
        if isinstance(seen, grpc.RpcError):
            return {"status": seen.code().name, "details": seen.details()}
        seen = seen.__cause__ or seen.__context__
    for code in grpc.StatusCode:
        if f"StatusCode.{code.name}" in text:
            return {"status": code.name}
    return {"client": text}


def plain(value):
    """A google.protobuf.Value, or what stands in it, as JSON."""
    from google.protobuf import json_format

    return json.loads(json_format.MessageToJson(value))


class Stub:
    """Bare calls with a package's own messages: `pb` has them all under the names of the specification."""

    def __init__(self, socket, pb):
        self.channel, self.pb = grpc.insecure_channel(socket), pb

    def call(self, method, request, response, headers=(HEADER,)):
        """The first message of a call; all of them are asked for as streams, which the wire does not tell apart."""
        call = self.channel.unary_stream(
            "/SpiffeWorkloadAPI/" + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )(request, metadata=headers, timeout=PATIENCE)
        message = next(call)
        call.cancel()
        return message

    def stream(self, method, request, response):
        return self.channel.unary_stream(
            "/SpiffeWorkloadAPI/" + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )(request, metadata=(HEADER,))

    def bare(self, ask):
        """Any method, with any headers: what no library does."""
        headers = tuple(tuple(header) for header in ask["headers"])
        requests = {
            "FetchX509SVID": ("X509SVIDRequest", {}, "X509SVIDResponse"),
            "FetchX509Bundles": ("X509BundlesRequest", {}, "X509BundlesResponse"),
            "FetchJWTSVID": ("JWTSVIDRequest", {"audience": ["a"]}, "JWTSVIDResponse"),
            "FetchJWTBundles": ("JWTBundlesRequest", {}, "JWTBundlesResponse"),
            "ValidateJWTSVID": ("ValidateJWTSVIDRequest", {"audience": "a", "svid": "b"}, "ValidateJWTSVIDResponse"),
        }
        request, fields, response = requests.get(ask["method"], requests["FetchX509SVID"])
        self.call(ask["method"], getattr(self.pb, request)(**fields), getattr(self.pb, response), headers)
        return {"status": "OK"}

    def validate(self, ask):
        request = self.pb.ValidateJWTSVIDRequest(audience=ask["audience"], svid=ask["token"])
        said = self.call("ValidateJWTSVID", request, self.pb.ValidateJWTSVIDResponse)
        return {"id": said.spiffe_id, "claims": plain(said.claims)}

    def jwt_svids(self, ask):
        request = self.pb.JWTSVIDRequest(audience=ask["audience"], spiffe_id=ask.get("id") or "")
        said = self.call("FetchJWTSVID", request, self.pb.JWTSVIDResponse)
        return {
            "ids": [one.spiffe_id for one in said.svids],
            "hints": [one.hint for one in said.svids],
            "tokens": [one.svid for one in said.svids],
        }


def serials(certificates):
    return [format(certificate.serial_number, "x") for certificate in certificates]


class Spiffe(Stub):
    """PyPI `spiffe`."""

    def __init__(self, socket):
        from spiffe import WorkloadApiClient
        from spiffe._proto import workload_pb2

        super().__init__(socket, workload_pb2)
        self.client = WorkloadApiClient(socket, default_timeout=PATIENCE)

    def x509_svids(self, _):
        svids = self.client.fetch_x509_svids()
        return {"ids": [str(one.spiffe_id) for one in svids], "serials": serials(one.leaf for one in svids)}

    def x509_bundles(self, _):
        bundles = self.client.fetch_x509_bundles().bundles
        return {"domains": [f"spiffe://{one.trust_domain.name}" for one in bundles],
                "keys": [len(one.x509_authorities) for one in bundles]}

    def jwt_svids(self, ask):
        from spiffe import SpiffeId

        if not ask["audience"] or ask.get("id") == "not an id":
            return super().jwt_svids(ask)
        subject = SpiffeId(ask["id"]) if ask.get("id") else None
        svids = self.client.fetch_jwt_svids(set(ask["audience"]), subject)
        return {"ids": [str(one.spiffe_id) for one in svids], "tokens": [one.token for one in svids]}

    def jwt_bundles(self, _):
        return kids(self.client.fetch_jwt_bundles().bundles)

    def validate(self, ask):
        said = super().validate(ask)
        svid = self.client.validate_jwt_svid(ask["token"], ask["audience"])
        assert str(svid.spiffe_id) == said["id"]
        return said

    def watch(self, what):
        ended = threading.Event()

        def failed(error):
            say(told(error))
            ended.set()

        if what == "x509":
            news = lambda context: say({"serials": serials(one.leaf for one in context.x509_svids)})
            self.client.stream_x509_contexts(news, failed, retry_connect=False)
        else:
            self.client.stream_jwt_bundles(lambda bundles: say(kids(bundles.bundles)), failed, retry_connect=False)
        ended.wait()


def kids(bundles):
    return {
        "domains": [f"spiffe://{one.trust_domain.name}" for one in bundles],
        "kids": sorted(kid for one in bundles for kid in one.jwt_authorities),
    }


class Defakto(Stub):
    """PyPI `spiffe-defakto`."""

    def __init__(self, socket):
        from spiffe_defakto._generated import workloadapi_pb2

        super().__init__(socket, workloadapi_pb2)
        self.path = socket.removeprefix("unix://")

    def run(self, work):
        from spiffe_defakto.local_workload_api.client import LocalWorkloadAPIClient
        from spiffe_defakto.local_workload_api.options import UnixOptions

        async def within():
            async with LocalWorkloadAPIClient(UnixOptions(socket_path=self.path)) as client:
                return await work(client)

        return asyncio.run(within())

    def x509_svids(self, _):
        svids = self.run(lambda client: client._fetch_x509_context()).svids
        return {"ids": [str(one.id) for one in svids], "serials": serials(one.certificates[0] for one in svids)}

    def x509_bundles(self, ask):
        bundle = self.run(lambda client: client.x509.get_bundle_for_trust_domain(domain(ask)))
        return {"domains": [f"spiffe://{bundle.trust_domain.name}"], "keys": [len(bundle.x509_authorities)]}

    def jwt_svids(self, ask):
        if not ask.get("first"):
            return super().jwt_svids(ask)
        svid = self.run(lambda client: client.jwt.fetch_svid(ask["audience"]))
        return {"ids": [str(svid.id)], "tokens": [svid.token]}

    def jwt_bundles(self, ask):
        return kids([self.run(lambda client: client.jwt.get_bundle_for_trust_domain(domain(ask)))])

    def watch(self, what):
        if what == "jwt":
            # The package has no such watcher; its stub streams.
            stream = self.stream("FetchJWTBundles", self.pb.JWTBundlesRequest(), self.pb.JWTBundlesResponse)
            return bundles_of(stream)

        async def follow(client):
            async for context in client.watch_x509_context():
                say({"serials": serials(one.certificates[0] for one in context.svids)})

        try:
            self.run(follow)
        except Exception as error:
            say(told(error))


def domain(ask):
    from spiffe_defakto.spiffe_id import TrustDomain

    return TrustDomain.parse(ask["domain"])


def bundles_of(stream):
    try:
        for message in stream:
            say(jwks(message.bundles))
    except grpc.RpcError as error:
        say(told(error))


def jwks(bundles):
    found = {name: json.loads(text) for name, text in bundles.items()}
    return {
        "domains": sorted(found),
        "kids": sorted(key["kid"] for one in found.values() for key in one["keys"]),
        "sets": found,
    }


class Raw(Stub):
    """Bare grpcio; messages by the server's reflection, health by the protocol's own messages."""

    def __init__(self, socket):
        from google.protobuf.descriptor_pool import DescriptorPool
        from google.protobuf.message_factory import GetMessageClass
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

        class Messages:
            def __getattr__(_, name):
                return GetMessageClass(self.pool.FindMessageTypeByName(name))

        super().__init__(socket, Messages())
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def x509_svids(self, _):
        from cryptography.x509 import load_der_x509_certificate

        said = self.call("FetchX509SVID", self.pb.X509SVIDRequest(), self.pb.X509SVIDResponse)
        return {
            "ids": [one.spiffe_id for one in said.svids],
            "hints": [one.hint for one in said.svids],
            "serials": serials(load_der_x509_certificate(one.x509_svid) for one in said.svids),
            "bundled": all(one.bundle and one.x509_svid_key for one in said.svids),
        }

    def x509_bundles(self, _):
        said = self.call("FetchX509Bundles", self.pb.X509BundlesRequest(), self.pb.X509BundlesResponse)
        return {"domains": sorted(said.bundles), "keys": [1 if one else 0 for one in said.bundles.values()]}

    def jwt_bundles(self, _):
        said = self.call("FetchJWTBundles", self.pb.JWTBundlesRequest(), self.pb.JWTBundlesResponse)
        return jwks(said.bundles)

    def reflect(self, ask):
        """What reflection lists, by either version of it: their messages are the same on the wire."""
        from grpc_reflection.v1alpha import reflection_pb2 as pb

        call = self.channel.stream_stream(
            f"/grpc.reflection.{ask['version']}.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )(iter([pb.ServerReflectionRequest(list_services="")]), timeout=PATIENCE)
        services = sorted(one.name for one in next(call).list_services_response.service)
        methods = [one.name for one in self.pool.FindServiceByName("SpiffeWorkloadAPI").methods]
        return {"services": services, "methods": methods}

    def flood(self, ask):
        """Questions to reflection in one call, until the server has had enough."""
        from grpc_reflection.v1alpha import reflection_pb2 as pb

        questions = (pb.ServerReflectionRequest(list_services="") for _ in range(ask["questions"]))
        call = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )(questions, timeout=PATIENCE)
        answers = 0
        try:
            for _ in call:
                answers += 1
        except grpc.RpcError as error:
            return {"answers": answers, **told(error)}
        return {"answers": answers, "status": "OK"}

    def health(self, ask):
        from grpc_health.v1 import health_pb2 as pb

        call = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.HealthCheckResponse.FromString,
        )
        said = call(pb.HealthCheckRequest(service=ask["service"]), timeout=PATIENCE)
        return {"health": pb.HealthCheckResponse.ServingStatus.Name(said.status)}

    def watch(self, what):
        if what == "jwt":
            stream = self.stream("FetchJWTBundles", self.pb.JWTBundlesRequest(), self.pb.JWTBundlesResponse)
            return bundles_of(stream)
        from cryptography.x509 import load_der_x509_certificate

        try:
            for message in self.stream("FetchX509SVID", self.pb.X509SVIDRequest(), self.pb.X509SVIDResponse):
                say({"serials": serials(load_der_x509_certificate(one.x509_svid) for one in message.svids)})
        except grpc.RpcError as error:
            say(told(error))


def main():
    name, socket, *what = sys.argv[1:]
    client = {"spiffe": Spiffe, "defakto": Defakto, "raw": Raw}[name](socket)
    if what:
        client.watch(what[0])
        return
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            say(getattr(client, ask["do"])(ask))
        except StopIteration:
            say({"status": "OK", "details": "no message"})
        except Exception as error:
            say(told(error))


main()
