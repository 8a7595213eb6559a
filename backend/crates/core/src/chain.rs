//! Which image a volume's next backup becomes, and which images are still needed.
//!
//! The caller reads chain files and lists the target; what comes in here is only what was found.

use std::collections::{BTreeMap, BTreeSet};

/// Longest chain that is extended: a restore reads every image of the chain, so an endless one gets slower and one
/// damaged image takes more points with it.
pub const MAX_CHAIN: usize = 50;

/// What is known of one image of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Id of the image it overlays; `None` for a base.
    pub parent: Option<String>,
    /// Size of the volume when it was taken, in bytes.
    pub virtual_size: u64,
    /// Cluster size of its files in bytes.
    pub cluster_size: u32,
    /// Files that the record names and the target does not have (any more), or has with another size.
    pub missing: Vec<String>,
}

/// What the next image must look like to fit a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Capacity of the volume in bytes.
    pub virtual_size: u64,
    /// Cluster size that new images are written with.
    pub cluster_size: u32,
}

/// What the next image of a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A base.
    Full {
        /// Why it is no overlay although one was asked for; `None` when a full was asked for.
        reason: Option<FullReason>,
    },
    /// An overlay.
    Incremental {
        /// Ids of the chain below it, newest (its parent) first.
        chain: Vec<String>,
    },
}

/// Why a full is taken though an incremental was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FullReason {
    /// There is no image yet.
    #[error("there is no earlier image of this volume")]
    First,
    /// The volume grew.
    #[error("the volume has {now} bytes, the last image {then}")]
    Resized {
        /// Bytes of the last image.
        then: u64,
        /// Bytes now.
        now: u64,
    },
    /// Images are written with another cluster size now.
    #[error("images are written with clusters of {now} bytes now, the last one has {then}")]
    ClusterSize {
        /// Cluster size of the last image.
        then: u32,
        /// Cluster size now.
        now: u32,
    },
    /// The chain is as long as it may get.
    #[error("the chain has {0} images, the most that are put on one another")]
    TooLong(usize),
    /// The plan has begun to encrypt, or has stopped: a chain is one or the other as a whole.
    #[error("the plan's encryption was switched on or off since the last image")]
    Encryption,
    /// An image of the chain is damaged, as a verification found.
    #[error("a verification found damage in the chain: {0}")]
    Damaged(String),
    /// An image of the chain is not recorded.
    #[error("image {0} of the chain is not recorded")]
    Broken(String),
    /// A file of the chain is missing.
    #[error("{file} of image {image} is missing on the target or has another size")]
    Incomplete {
        /// Image.
        image: String,
        /// File.
        file: String,
    },
    /// The target locks what is stored, and the chain is as long as the plan lets it get there.
    #[error(
        "the chain has {0} incrementals, the most that the plan puts on a full backup where objects are locked"
    )]
    Planned(usize),
    /// The target locks what is stored, and the chain's lock ends too early.
    #[error("the chain is locked until {0}, which is sooner than a point of now has to be")]
    LockEnds(String),
    /// The target locks what is stored, and the chain is from before it did.
    #[error("the chain is not locked")]
    NotLocked,
    /// Asking the target for the chain failed in a way that does not stop a full.
    #[error("the chain cannot be read: {0}")]
    Unreadable(String),
}

/// Decides what the next image is. `images` are the images of the newest chain file, oldest first.
pub fn choose(incremental: bool, shape: Shape, images: &[Image]) -> Choice {
    if !incremental {
        return Choice::Full { reason: None };
    }
    match extend(shape, images) {
        Ok(chain) => Choice::Incremental { chain },
        Err(reason) => Choice::Full { reason: Some(reason) },
    }
}

fn extend(shape: Shape, images: &[Image]) -> Result<Vec<String>, FullReason> {
    let newest = images.last().ok_or(FullReason::First)?;
    // Drivers may round up what was asked for, so an image can be larger than the claim's capacity; a volume that is
    // larger than its last image has grown.
    if newest.virtual_size < shape.virtual_size {
        return Err(FullReason::Resized {
            then: newest.virtual_size,
            now: shape.virtual_size,
        });
    }
    if newest.cluster_size != shape.cluster_size {
        return Err(FullReason::ClusterSize {
            then: newest.cluster_size,
            now: shape.cluster_size,
        });
    }
    let by_id: BTreeMap<&str, &Image> = images.iter().map(|i| (i.id.as_str(), i)).collect();
    let mut chain = Vec::new();
    let mut next = Some(newest.id.as_str());
    while let Some(id) = next {
        if chain.len() >= images.len() {
            // Longer than there are images: the parents run in a circle.
            return Err(FullReason::Broken(id.to_owned()));
        }
        let image = by_id.get(id).ok_or_else(|| FullReason::Broken(id.to_owned()))?;
        if image.virtual_size != newest.virtual_size || image.cluster_size != shape.cluster_size {
            return Err(FullReason::Broken(id.to_owned()));
        }
        if let Some(file) = image.missing.first() {
            return Err(FullReason::Incomplete {
                image: id.to_owned(),
                file: file.clone(),
            });
        }
        chain.push(id.to_owned());
        next = image.parent.as_deref();
    }
    if chain.len() >= MAX_CHAIN {
        Err(FullReason::TooLong(chain.len()))
    } else {
        Ok(chain)
    }
}

/// Ids of `images` (id and parent) that some point needs: those that `points` name and everything below them.
pub fn needed<'a>(
    images: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    points: impl IntoIterator<Item = &'a str>,
) -> BTreeSet<&'a str> {
    let parents: BTreeMap<&str, Option<&str>> = images.into_iter().collect();
    let mut needed = BTreeSet::new();
    for point in points {
        let mut next = Some(point);
        while let Some(id) = next {
            if !needed.insert(id) {
                break;
            }
            next = parents.get(id).copied().flatten();
        }
    }
    needed
}

/// An image of a chain, as far as retention goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// Its id.
    pub id: &'a str,
    /// Id of the image it overlays; `None` for a base.
    pub parent: Option<&'a str>,
    /// Whether a point is this image, or a run is at work with it.
    pub wanted: bool,
}

/// A run of neighbouring images that could become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mergeable<'a> {
    /// Ids, newest first. The newest one is wanted, or others lie upon it; all others are needed by it alone.
    pub run: Vec<&'a str>,
    /// Images of the longest chain that the run is part of.
    pub chain: usize,
}

/// Every run of images that no point is any more, each with the image above it, which keeps its id. An image that two lie
/// upon begins a run or is in none: taking it away would need both to be merged.
///
/// What no point needs is left alone: it is about to be removed, and its keys and files may be gone already.
pub fn mergeable<'a>(links: &[Link<'a>]) -> Vec<Mergeable<'a>> {
    let all: BTreeMap<&str, &Link<'a>> = links.iter().map(|link| (link.id, link)).collect();
    let mut by_id: BTreeMap<&str, &Link<'a>> = BTreeMap::new();
    for wanted in links.iter().filter(|link| link.wanted) {
        let mut next = Some(wanted);
        while let Some(link) = next {
            if by_id.insert(link.id, link).is_some() {
                break;
            }
            next = link.parent.and_then(|parent| all.get(parent).copied());
        }
    }
    let links: Vec<Link<'a>> = links
        .iter()
        .filter(|link| by_id.contains_key(link.id))
        .copied()
        .collect();
    let mut children: BTreeMap<&str, usize> = BTreeMap::new();
    for parent in links.iter().filter_map(|link| link.parent) {
        *children.entry(parent).or_default() += 1;
    }
    let height = |from: &'a str| {
        let mut next = Some(from);
        let mut height = 0;
        while let Some(id) = next.filter(|_| height < links.len()) {
            height += 1;
            next = by_id.get(id).and_then(|link| link.parent);
        }
        height
    };
    let goes = |id: &str| by_id.get(id).is_some_and(|link| !link.wanted) && children.get(id) == Some(&1);
    let mut found = Vec::new();
    // A run begins at an image that does not go itself.
    for top in links.iter().filter(|link| !goes(link.id)) {
        let mut run = vec![top.id];
        let mut next = top.parent;
        while let Some(id) = next.filter(|id| goes(id) && run.len() < links.len()) {
            run.push(id);
            next = by_id.get(id).and_then(|link| link.parent);
        }
        if run.len() > 1 {
            found.push(Mergeable {
                chain: height(top.id),
                run,
            });
        }
    }
    // How long a chain is says its tip, not where the run begins.
    for tip in links.iter().filter(|link| !children.contains_key(link.id)) {
        let length = height(tip.id);
        let mut next = Some(tip.id);
        let mut steps = 0;
        while let Some(id) = next.filter(|_| steps < length) {
            for mergeable in found.iter_mut().filter(|m| m.run[0] == id) {
                mergeable.chain = mergeable.chain.max(length);
            }
            next = by_id.get(id).and_then(|link| link.parent);
            steps += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPE: Shape = Shape {
        virtual_size: 1 << 30,
        cluster_size: 65536,
    };

    #[test]
    fn a_branch_that_no_point_needs_is_not_merged() {
        let link = |id, parent, wanted| Link { id, parent, wanted };
        let base = link("base", None, false);
        let dead = [
            link("dead", Some("base"), false),
            link("tip", Some("dead"), false),
        ];
        assert!(mergeable(&[base, dead[0], dead[1]]).is_empty());
        let point = link("point", Some("base"), true);
        let found = mergeable(&[base, dead[0], dead[1], point]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].run.as_slice(), found[0].chain),
            (["point", "base"].as_slice(), 2)
        );
    }

    fn image(id: &str, parent: Option<&str>) -> Image {
        Image {
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
            virtual_size: SHAPE.virtual_size,
            cluster_size: SHAPE.cluster_size,
            missing: Vec::new(),
        }
    }

    fn line(n: usize) -> Vec<Image> {
        (0..n)
            .map(|i| image(&i.to_string(), (i > 0).then(|| (i - 1).to_string()).as_deref()))
            .collect()
    }

    fn reason(images: &[Image]) -> FullReason {
        match choose(true, SHAPE, images) {
            Choice::Full { reason: Some(reason) } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn full_when_asked_and_when_it_is_the_first() {
        assert_eq!(choose(false, SHAPE, &line(3)), Choice::Full { reason: None });
        assert_eq!(reason(&[]), FullReason::First);
    }

    #[test]
    fn incremental_on_the_newest_with_its_whole_chain() {
        let chain = vec!["2".to_owned(), "1".to_owned(), "0".to_owned()];
        assert_eq!(choose(true, SHAPE, &line(3)), Choice::Incremental { chain });
    }

    #[test]
    fn a_newer_full_starts_a_new_chain() {
        let mut images = line(3);
        images.push(image("full", None));
        assert_eq!(
            choose(true, SHAPE, &images),
            Choice::Incremental {
                chain: vec!["full".to_owned()]
            }
        );
    }

    #[test]
    fn what_does_not_fit_forces_a_full() {
        let mut resized = line(2);
        resized[1].virtual_size = 1;
        assert_eq!(
            reason(&resized),
            FullReason::Resized {
                then: 1,
                now: SHAPE.virtual_size
            }
        );
        let mut clusters = line(2);
        clusters[1].cluster_size = 4096;
        assert_eq!(
            reason(&clusters),
            FullReason::ClusterSize {
                then: 4096,
                now: 65536
            }
        );
        let mut gap = line(3);
        gap.remove(0);
        assert_eq!(reason(&gap), FullReason::Broken("0".to_owned()));
        let mut lost = line(3);
        lost[0].missing.push("0-s0.index".to_owned());
        assert_eq!(
            reason(&lost),
            FullReason::Incomplete {
                image: "0".to_owned(),
                file: "0-s0.index".to_owned()
            }
        );
        assert_eq!(
            reason(&[image("a", Some("b")), image("b", Some("a"))]),
            FullReason::Broken("b".to_owned())
        );
    }

    #[test]
    fn chains_end_at_their_limit() {
        assert!(matches!(
            choose(true, SHAPE, &line(MAX_CHAIN - 1)),
            Choice::Incremental { .. }
        ));
        assert_eq!(reason(&line(MAX_CHAIN)), FullReason::TooLong(MAX_CHAIN));
    }

    fn links(text: &'static [(&'static str, Option<&'static str>, bool)]) -> Vec<Link<'static>> {
        let link = |(id, parent, wanted): &(&'static str, Option<&'static str>, bool)| Link {
            id,
            parent: *parent,
            wanted: *wanted,
        };
        text.iter().map(link).collect()
    }

    #[test]
    fn a_run_is_what_no_point_is_with_the_image_above_it() {
        let chain = links(&[
            ("a", None, false),
            ("b", Some("a"), false),
            ("c", Some("b"), true),
            ("d", Some("c"), true),
            ("e", Some("d"), false),
            ("f", Some("e"), true),
        ]);
        let runs = mergeable(&chain);
        let of = |m: &Mergeable<'static>| (m.run.clone(), m.chain);
        assert_eq!(
            runs.iter().map(of).collect::<Vec<_>>(),
            [(vec!["c", "b", "a"], 6), (vec!["f", "e"], 6)]
        );
        assert!(mergeable(&links(&[("a", None, true), ("b", Some("a"), true)])).is_empty());
    }

    #[test]
    fn an_image_that_two_lie_upon_stays() {
        let fork = links(&[("a", None, false), ("b", Some("a"), true), ("c", Some("a"), true)]);
        assert!(mergeable(&fork).is_empty());
        let above = links(&[
            ("base", None, false),
            ("a", Some("base"), false),
            ("b", Some("a"), true),
            ("c", Some("a"), true),
        ]);
        assert_eq!(
            mergeable(&above)[0].run,
            ["a", "base"],
            "and can take what lies below it"
        );
        let circle = links(&[("a", Some("b"), false), ("b", Some("a"), false)]);
        assert!(mergeable(&circle).is_empty());
    }

    proptest! {
        /// No point ever loses an image it reads, and nothing else is kept.
        #[test]
        fn needed_is_exactly_the_closure(parents in prop::collection::vec(0usize..20, 1..20), points in prop::collection::vec(0usize..20, 0..5)) {
            let ids: Vec<String> = (0..parents.len()).map(|i| i.to_string()).collect();
            // An image's parent is an older one; an index that is not older means a base.
            let images: Vec<(&str, Option<&str>)> =
                parents.iter().enumerate().map(|(i, p)| (ids[i].as_str(), (*p < i).then(|| ids[*p].as_str()))).collect();
            let roots: Vec<&str> = points.iter().filter(|p| **p < ids.len()).map(|p| ids[*p].as_str()).collect();
            let kept = needed(images.clone(), roots.clone());
            for root in &roots {
                let mut next = Some(*root);
                while let Some(id) = next {
                    prop_assert!(kept.contains(id));
                    next = images.iter().find(|(i, _)| *i == id).and_then(|(_, p)| *p);
                }
            }
            for id in &kept {
                let child = images.iter().any(|(i, p)| *p == Some(*id) && kept.contains(i));
                prop_assert!(child || roots.contains(id));
            }
        }
    }
}
