"""JWT libraries that nobody changed, asked whether a token is good. They know the issuer's URL and an audience alone: the keys
come from the discovery document. Prints one JSON object: for each library the claims, or the error."""

import json
import sys
import urllib.request

import joserfc.jwk
import joserfc.jwt
import jwt
from authlib.jose import JsonWebKey, JsonWebToken


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def discovered(issuer):
    document = get(issuer + "/.well-known/openid-configuration")
    assert document["issuer"] == issuer, document["issuer"]
    return document


def pyjwt(issuer, audience, token):
    found = discovered(issuer)
    key = jwt.PyJWKClient(found["jwks_uri"]).get_signing_key_from_jwt(token)
    allowed = found["id_token_signing_alg_values_supported"]
    return jwt.decode(token, key, algorithms=allowed, audience=audience, issuer=issuer, options={"require": ["exp", "aud", "iss", "sub"]})


def authlib(issuer, audience, token):
    found = discovered(issuer)
    keys = JsonWebKey.import_key_set(get(found["jwks_uri"]))
    rules = {"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": audience}, "exp": {"essential": True}}
    library = JsonWebToken(found["id_token_signing_alg_values_supported"])
    claims = library.decode(token, keys, claims_options=rules)
    claims.validate()
    return dict(claims)


def joserfc_(issuer, audience, token):
    found = discovered(issuer)
    keys = joserfc.jwk.KeySet.import_key_set(get(found["jwks_uri"]))
    decoded = joserfc.jwt.decode(token, keys, algorithms=found["id_token_signing_alg_values_supported"])
    registry = joserfc.jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": issuer}, aud={"essential": True, "value": audience}, exp={"essential": True}
    )
    registry.validate(decoded.claims)
    return decoded.claims


issuer, audience, file = sys.argv[1:]
with open(file) as opened:
    token = opened.read().strip()
said = {}
for name, library in [("pyjwt", pyjwt), ("authlib", authlib), ("joserfc", joserfc_)]:
    try:
        said[name] = library(issuer, audience, token)
    except Exception as error:
        said[name] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(said))
