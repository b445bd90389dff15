//! The services beside the Workload API on its sockets (Workload Endpoint, section 7): reflection, so that a `grpcurl` needs
//! no .proto (S-40), and health, so that a probe needs no identity. What they tell is public, so they ask neither who calls
//! nor for the security header, which is the Workload API's own; the limits hold for them as for all.

use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;

use super::proto::DESCRIPTORS;

const NAME: &str = "SpiffeWorkloadAPI";
/// Questions are names and one address.
const MAX_REQUEST: usize = 4 << 10;

/// Adds them. Health says that nothing is served from `closing` on.
pub fn add(routes: Routes, closing: watch::Receiver<bool>) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report(reporter, closing));
    let mut routes = routes.add_service(health.max_decoding_message_size(MAX_REQUEST));
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // They fail for descriptors that are none; ours are made by the build, and a test asks for them.
    match builder().build_v1() {
        Ok(service) => routes = routes.add_service(service.max_decoding_message_size(MAX_REQUEST)),
        Err(error) => tracing::error!(%error, "no reflection"),
    }
    match builder().build_v1alpha() {
        Ok(service) => routes = routes.add_service(service.max_decoding_message_size(MAX_REQUEST)),
        Err(error) => tracing::error!(%error, "no reflection (v1alpha)"),
    }
    routes
}

async fn report(reporter: tonic_health::server::HealthReporter, mut closing: watch::Receiver<bool>) {
    reporter.set_service_status(NAME, ServingStatus::Serving).await;
    // Closing, or nobody is left who could close.
    drop(closing.wait_for(|closing| *closing).await);
    for name in [NAME, ""] {
        reporter.set_service_status(name, ServingStatus::NotServing).await;
    }
}
