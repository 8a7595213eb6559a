//! Runs of actions chosen at random.
//!
//! `HOLDFAST_RANDOM_ACTIONS` says how many, in each configuration; `HOLDFAST_RANDOM_SEED` which ones. The order in which
//! threads make their calls is not part of the seed, and neither are keys.

use std::sync::Arc;
use std::time::Duration;

use holdfast_repository::lock::Terms;
use holdfast_target::testing::{Gateway, LossyProxy, MemoryTarget};
use holdfast_target::{Connection, DirectoryTarget, S3Target};

use crate::disturb::{Backdoor, Store};
use crate::report::Report;
use crate::rng::Rng;
use crate::volume::{Volume, folder};
use crate::world::World;

/// Every point is compared after so many actions.
const ALL: u64 = 10;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
    )
}

/// A plan with two volumes: one that ends within a cluster, and one that ends with one.
async fn run(configuration: &'static str, store: Store, encrypts: bool, large: Option<u64>, actions: u64) {
    run_with(configuration, store, encrypts, large, actions, None).await;
}

async fn run_with(
    configuration: &'static str,
    store: Store,
    encrypts: bool,
    large: Option<u64>,
    actions: u64,
    terms: Option<Terms>,
) {
    let seed = setting("HOLDFAST_RANDOM_SEED").unwrap_or(1);
    let actions = setting("HOLDFAST_RANDOM_ACTIONS").unwrap_or(actions);
    let folder = folder();
    let mut volumes = vec![
        Volume::create(folder.path(), "small", (1 << 20) + 512 * 333, 16 << 10),
        Volume::create(folder.path(), "even", 2 << 20, 64 << 10),
    ];
    if let Some(size) = large {
        let volume = Volume::create(folder.path(), "large", size, 64 << 10);
        volume.fill(&mut Rng::new(seed));
        volumes.push(volume);
    }
    let report = Report::new(configuration, seed);
    // Every configuration has its own actions.
    let own = seed.wrapping_add((configuration.len() as u64) << 32);
    let mut world = World::new(own, store, volumes, folder, report, terms);
    if encrypts {
        world.switch_encryption();
    }
    for number in 1..=actions {
        let action = world.choose();
        world.report.begin(action);
        world.act(action).await;
        if number.is_multiple_of(ALL) {
            world.check(true).await;
        } else if action.touches_target() {
            world.check(false).await;
        } else {
            world.check_list().await;
        }
    }
    world.end().await;
    println!("{}", world.report);
}

/// A volume that is long enough for parts of uploads, and for merges by copies.
#[tokio::test(flavor = "multi_thread")]
async fn random_in_clear() {
    let memory = Arc::new(MemoryTarget::new());
    let store = Store {
        target: memory.clone(),
        backdoor: Backdoor::Memory(memory),
        proxy: None,
        troubled: true,
    };
    run("in clear in memory", store, false, Some(18 << 20), 70).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_encrypted() {
    let memory = Arc::new(MemoryTarget::new());
    let store = Store {
        target: memory.clone(),
        backdoor: Backdoor::Memory(memory),
        proxy: None,
        troubled: true,
    };
    run("encrypted in memory", store, true, None, 70).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_in_a_folder() {
    let place = folder();
    let target = DirectoryTarget::create(place.path()).await.unwrap();
    let store = Store {
        target: Arc::new(target),
        backdoor: Backdoor::Folder(place.path().to_owned()),
        proxy: None,
        troubled: true,
    };
    run("encrypted in a folder", store, true, None, 70).await;
}

/// A real store behind a network that loses, refuses and cuts answers: all of it is within the patience of the client.
#[tokio::test(flavor = "multi_thread")]
async fn random_through_a_lossy_network() {
    let gateway = Gateway::start();
    let proxy = LossyProxy::start(gateway.address()).await;
    let connection = Connection {
        url: Some(format!("http://{}", proxy.address())),
        ..gateway.connection()
    };
    let store = Store {
        target: Arc::new(S3Target::connect(&connection).unwrap()),
        backdoor: Backdoor::None,
        proxy: Some(proxy),
        troubled: false,
    };
    run("encrypted on a real store", store, true, None, 25).await;
}

/// A real store that locks, and its owner at work against us.
#[tokio::test(flavor = "multi_thread")]
async fn random_where_objects_are_locked() {
    let gateway = Gateway::start();
    let target = gateway.bucket("locked");
    target.create_locking_bucket(None).await;
    let store = Store {
        target: Arc::new(target.clone().with_fresh_settings()),
        backdoor: Backdoor::Owner(target.with_fresh_settings()),
        proxy: None,
        troubled: true,
    };
    let terms = Terms {
        retention: Duration::from_secs(3600),
        span: Duration::from_secs(3600),
        incrementals: 4,
    };
    run_with("encrypted and locked", store, true, None, 30, Some(terms)).await;
}
