//! The control plane is what it says.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::time::Duration;

use holdfast_crd::Target;
use holdfast_testkit::ControlPlane;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::{Api, Client};

#[tokio::test]
async fn serves_our_kinds_and_knows_who_asks() {
    let plane = ControlPlane::start().await.unwrap();
    plane.install_crds().await.unwrap();
    let targets: Api<Target> = Api::all(plane.client().unwrap());
    assert!(targets.list(&Default::default()).await.unwrap().items.is_empty());

    let anna: Api<SelfSubjectReview> = Api::all(plane.client_of("anna", Some("platform")).unwrap());
    let review = anna
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .unwrap();
    let user = review.status.unwrap().user_info.unwrap();
    assert_eq!(user.username.as_deref(), Some("anna"));
    assert!(user.groups.unwrap().contains(&"platform".to_owned()));

    let token = plane
        .service_account_token("team-a", "robot", Duration::from_secs(600))
        .await
        .unwrap();
    let mut config = plane.anonymous_config();
    config.auth_info.token = Some(token.into());
    let robot: Api<Target> = Api::namespaced(Client::try_from(config).unwrap(), "team-a");
    let refused = robot.list(&Default::default()).await.unwrap_err().to_string();
    assert!(
        refused.contains("system:serviceaccount:team-a:robot"),
        "{refused}"
    );
}
