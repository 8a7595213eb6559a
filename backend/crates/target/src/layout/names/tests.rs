use super::*;

fn location() -> Location {
    "c1/p1/b1".parse().unwrap()
}

#[test]
fn keys_are_those_of_the_format() {
    let location = location();
    assert_eq!(
        location.commit_key().as_str(),
        "holdfast/points/c1/p1/b1/backup.json"
    );
    assert_eq!(
        location.objects_key(Attempt(2)).as_str(),
        "holdfast/points/c1/p1/b1/objects-2.jsonl.zst"
    );
    assert_eq!(
        Location::of_commit_key(&location.commit_key()),
        Some(location.clone())
    );
    assert_eq!(Location::of_commit_key(&location.objects_key(Attempt(1))), None);
    assert_eq!(
        location.attempt_of(&location.objects_key(Attempt(2))),
        Some(Attempt(2))
    );
    for other in [
        "backup.json",
        "objects-02.jsonl.zst",
        "objects-.jsonl.zst",
        "objects-2.jsonl",
    ] {
        assert_eq!(
            location.attempt_of(&location.prefix().key(other)),
            None,
            "{other}"
        );
    }
    let home: VolumeHome = "c1/p1/v1".parse().unwrap();
    let image = ImageId {
        backup: location.backup,
        attempt: Attempt(3),
    };
    let key = home.image_key(&image, ShardNumber(1));
    assert_eq!(key.as_str(), "holdfast/volumes/c1/p1/v1/b1-a3-s1.qcow2");
    assert_eq!(home.image_of(&key), Some(image.clone()));
    assert_eq!(
        home.image_of(&home.index_key(&image, ShardNumber(0))),
        Some(image.clone())
    );
    let merged = FileStem {
        image: image.clone(),
        merged: Some(Generation(12)),
    };
    let key = home.image_key(&merged, ShardNumber(1));
    assert_eq!(key.as_str(), "holdfast/volumes/c1/p1/v1/b1-a3-m12-s1.qcow2");
    assert_eq!(home.stem_of(&key), Some(merged.clone()));
    let index = home.index_key(&merged, ShardNumber(0));
    assert_eq!(home.image_of(&index), Some(image));
    assert_eq!(home.file_key(key.file_name()).unwrap(), key);
    for other in ["a/b.qcow2", "../b.qcow2", ""] {
        assert!(home.file_key(other).is_err(), "{other:?}");
    }
    let checkpoint = home.checkpoint_key(&merged, ShardNumber(1), 4);
    assert_eq!(
        checkpoint.as_str(),
        "holdfast/volumes/c1/p1/v1/b1-a3-m12-s1.resume-4.json"
    );
    assert_eq!(
        home.checkpoint_of(&checkpoint),
        Some((merged.clone(), ShardNumber(1), 4))
    );
    let part = home.first_part_key(&merged, ShardNumber(1), 2);
    assert_eq!(home.checkpoint_of(&part), None);
    for key in [&checkpoint, &part] {
        assert_eq!(home.stem_of(key), Some(merged.clone()));
    }
    let chain = home.chain_key(Generation(7));
    assert_eq!(chain.as_str(), "holdfast/volumes/c1/p1/v1/chain-0000000007.json");
    assert_eq!(home.generation_of(&chain), Some(Generation(7)));
    assert_eq!(home.generation_of(&key), None);
    assert_eq!(home.image_of(&chain), None);
}

#[test]
fn names_that_could_leave_their_folder_are_refused() {
    for bad in [
        "",
        "a/b",
        "a/b/c/d",
        "a/../c",
        "A/b/c",
        "a//c",
        "a/b/c ",
        "a/b/\u{e4}",
    ] {
        assert!(bad.parse::<Location>().is_err(), "{bad:?}");
    }
    assert!("x".repeat(65).parse::<Uid>().is_err());
    for bad in ["b", "b-a", "b-a01", "b-a-1", "b-a+1", "-a1", "b-a4294967296"] {
        assert!(bad.parse::<ImageId>().is_err(), "{bad:?}");
    }
    assert_eq!("b-a1-a2".parse::<ImageId>().unwrap().to_string(), "b-a1-a2");
}

#[test]
fn a_stem_is_that_of_one_image() {
    // A UID may look like any of our endings.
    for text in [
        "b-a1",
        "b-a1-m7",
        "b-m7-a1",
        "b-a1-m7-a2",
        "b-a1-m7-a2-m9",
        "b-s0-a1",
    ] {
        let stem: FileStem = text.parse().unwrap();
        assert_eq!(stem.to_string(), text);
        let name = stem.index_name(ShardNumber(3));
        assert_eq!(FileStem::of_file(&name), Some((stem, ShardNumber(3))));
    }
    assert_eq!(
        "b-a1-m7-a2".parse::<FileStem>().unwrap().image.to_string(),
        "b-a1-m7-a2"
    );
    for bad in [
        "b", "b-m7", "b-a1-m", "b-a1-m07", "b-a1-m+7", "-a1-m7", "b-a01-m7",
    ] {
        assert!(bad.parse::<FileStem>().is_err(), "{bad:?}");
    }
    for bad in [
        "b-a1.qcow2",
        "b-a1-s00.qcow2",
        "b-a1-s+0.qcow2",
        "b-a1-s0.raw",
        "-s0.qcow2",
    ] {
        assert_eq!(FileStem::of_file(bad), None, "{bad:?}");
    }
}

#[test]
fn a_digest_reads_back_what_it_prints() {
    let digest = Digest::of(b"holdfast");
    assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
    assert!("00".parse::<Digest>().is_err());
}
