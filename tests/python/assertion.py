"""An application that checks the sidecar's statement with PyJWT, as any library would.

usage: assertion.py JWKS_URL AUDIENCE ISSUER STATEMENT

Prints the claims as JSON, or `refused: WHY` and exits with 1.
"""

import json
import sys

import jwt

url, audience, issuer, statement = sys.argv[1:]
try:
    key = jwt.PyJWKClient(url, timeout=10).get_signing_key_from_jwt(statement)
    claims = jwt.decode(
        statement,
        key.key,
        algorithms=["ES256"],
        audience=audience,
        issuer=issuer,
        options={"require": ["iss", "aud", "exp", "iat", "jti"]},
    )
except (jwt.PyJWTError, OSError) as error:
    print("refused:", type(error).__name__, error)
    sys.exit(1)
print(json.dumps(claims))
