//! Test equipment, not part of the product: a target in memory, faults on demand, real S3 servers, a network that
//! loses answers, a server that answers what a test wants, and the suite that every target passes. Helpers panic where a test could not go on.

mod buckets;
mod conformance;
mod crash;
mod disk;
mod faulty;
mod gateway;
mod memory;
mod minio;
mod owner;
mod proxy;
mod scripted;

pub use conformance::conformance;
pub(crate) use crash::step;
pub use crash::{die_at_step, steps};
pub use disk::SmallDisk;
pub use faulty::{Fault, Faulty, Operation};
pub use gateway::{Gateway, GatewayOptions};
pub use memory::MemoryTarget;
pub use minio::Minio;
pub use owner::Owner;
pub use proxy::LossyProxy;
pub use scripted::{Answer, ScriptedStore};
