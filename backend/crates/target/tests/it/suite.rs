use std::sync::Arc;

use holdfast_target::{
    S3Target,
    testing::{Faulty, Gateway, GatewayOptions, MemoryTarget, conformance},
};

#[tokio::test]
async fn memory_conforms() {
    conformance(Arc::new(MemoryTarget::new())).await;
}

#[tokio::test]
async fn a_wrapper_without_faults_conforms() {
    conformance(Arc::new(Faulty::new(Arc::new(MemoryTarget::new())))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_gateway_conforms() {
    let gateway = Gateway::start();
    conformance(Arc::new(gateway.target())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_gateway_with_tls_and_an_own_authority_conforms() {
    let gateway = Gateway::start_with(GatewayOptions {
        tls: true,
        ..GatewayOptions::default()
    });
    conformance(Arc::new(gateway.target())).await;
    let mut connection = gateway.connection();
    connection.ca = None;
    connection.skip_cert_verification = true;
    conformance(Arc::new(S3Target::connect(&connection).unwrap())).await;
}
