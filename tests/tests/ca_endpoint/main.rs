//! What the authority gives to others: the bundle endpoint and the OpenID documents as foreign programs see them, and the
//! verbs of the command line for SVIDs and bundles.

mod bounds;
mod bundles;
mod federation;
mod openid;
mod redirects;
mod support;
mod svids;
mod watch;
