//! Others read what this crate seals: a program in Go that was written from the specification, and a person with stock
//! tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use holdfast_seal::{
    DataKey, KeyRing, Location, PlanKey, Recipient, RecoveryKey, SEGMENT, seal_document, wrap,
};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use crate::support::{Object, noise};

const OBJECT_KEY: &str = "holdfast/points/c-1/p-1/b-1/objects-1.jsonl.zst";

/// Builds the second reader once.
fn second_reader() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("second-reader");
        let status = Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/second-reader"))
            .env("CGO_ENABLED", "0")
            .status()
            .expect("`go` runs (1.25 or later)");
        assert!(status.success());
        program
    })
}

/// A folder as a stranger has it: keys, wrapped keys, a layout with its object, a document.
struct Folder {
    dir: TempDir,
    object: Object,
    document: Vec<u8>,
    recipients: [Recipient; 2],
}

impl Folder {
    /// An object of pieces of three regions under two data keys, as two merges leave it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (plan, recovery) = (PlanKey::generate(), RecoveryKey::generate());
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        write("plan.txt", plan.to_text().expose_secret().as_bytes());
        write("recovery.txt", recovery.to_text().expose_secret().as_bytes());
        write(
            "stranger.txt",
            PlanKey::generate().to_text().expose_secret().as_bytes(),
        );
        let keys = ["c-1/p-1/b-1", "c-1/p-1/b-2"].map(|location| {
            let location: Location = location.parse().unwrap();
            let key = DataKey::generate(location);
            let file = wrap(&key, &plan, &[recovery.recipient()]).unwrap();
            write(&format!("{}.age", key.id()), &file);
            key
        });
        let segment = SEGMENT as u64;
        let [one, two, three] = [
            Object::seal(&keys[0], noise(1, 3 * SEGMENT + 100)),
            Object::seal(&keys[1], noise(2, 4 * SEGMENT)),
            Object::seal(&keys[0], noise(3, SEGMENT - 1)),
        ];
        let merged = Object::copied([
            (&one, segment..3 * segment + 100),
            (&three, 0..segment - 1),
            (&two, 0..3 * segment),
        ]);
        let all = merged.layout.plain_len();
        let object = Object::copied([
            (&merged, segment..all - segment),
            (&two, 3 * segment..4 * segment),
            (&merged, 0..segment),
        ]);
        let document = noise(4, 2 * SEGMENT + 12_345);
        write("layout.json", &serde_json::to_vec(&object.layout).unwrap());
        write("object", &object.sealed);
        write(
            "document",
            &seal_document(&keys[0], OBJECT_KEY, &document).unwrap(),
        );
        let ring = KeyRing::of(keys).unwrap();
        let opened = object.layout.unlock(&ring).unwrap();
        let opened = opened.open(&(0..object.layout.plain_len()), object.sealed.clone());
        assert!(opened.unwrap() == object.plain);
        Self {
            dir,
            object,
            document,
            recipients: [plan.recipient(), recovery.recipient()],
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(second_reader())
            .args(arguments)
            .current_dir(&self.dir)
            .output()
            .unwrap()
    }

    /// Opens the object with this key, and more arguments.
    fn object(&self, identity: [&str; 2], more: &[&str]) -> Output {
        let wrapped = [
            "-wrapped",
            "c-1/p-1/b-1=b-1.age",
            "-wrapped",
            "c-1/p-1/b-2=b-2.age",
        ];
        let files = ["-layout", "layout.json", "-sealed", "object"];
        self.run(&[&["object"], &identity[..], &wrapped, &files, more].concat())
    }

    fn document(&self, object_key: &str) -> Output {
        let wrapped = ["-plan", "plan.txt", "-wrapped", "c-1/p-1/b-1=b-1.age"];
        self.run(
            &[
                &["document"],
                &wrapped[..],
                &["-key", object_key, "-sealed", "document"],
            ]
            .concat(),
        )
    }

    /// Changes a file, runs, and puts it back.
    fn with<T>(&self, name: &str, change: impl FnOnce(&mut Vec<u8>), run: impl FnOnce() -> T) -> T {
        let original = fs::read(self.path(name)).unwrap();
        let mut changed = original.clone();
        change(&mut changed);
        assert_ne!(changed, original);
        fs::write(self.path(name), changed).unwrap();
        let result = run();
        fs::write(self.path(name), original).unwrap();
        result
    }
}

const PLAN: [&str; 2] = ["-plan", "plan.txt"];

fn refused(output: &Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{message}");
    assert!(message.contains("refused: "), "{message}");
    message
}

fn read(output: &Output, expected: &[u8]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(output.stdout == expected, "{message}");
}

#[test]
fn the_second_reader_reads_objects_and_documents() {
    let folder = Folder::new();
    read(&folder.object(PLAN, &[]), &folder.object.plain);
    read(
        &folder.object(["-recovery", "recovery.txt"], &[]),
        &folder.object.plain,
    );
    let len = folder.object.plain.len();
    for (from, to) in [
        (0, 1),
        (len - 1, len),
        (70_000, 70_000),
        (65_535, 200_001),
        (1, len - 1),
    ] {
        let range = format!("{from}:{to}");
        read(
            &folder.object(PLAN, &["-range", &range]),
            &folder.object.plain[from..to],
        );
    }
    read(&folder.document(OBJECT_KEY), &folder.document);
}

#[test]
fn the_second_reader_refuses_what_this_crate_refuses() {
    let folder = Folder::new();
    for at in [0, 65_551, 65_552, folder.object.sealed.len() - 1] {
        let output = folder.with("object", |bytes| bytes[at] ^= 4, || folder.object(PLAN, &[]));
        assert!(refused(&output).contains("does not match its tag"));
    }
    let cut = folder.with(
        "object",
        |bytes| bytes.truncate(bytes.len() - 1),
        || folder.object(PLAN, &[]),
    );
    assert!(refused(&cut).contains("its layout says"));
    let cut = folder.with(
        "document",
        |bytes| bytes.truncate(28 + 2 * 65_552),
        || folder.document(OBJECT_KEY),
    );
    assert!(refused(&cut).contains("does not match its tag"));
    refused(&folder.document("holdfast/points/c-1/p-1/b-1/objects-2.jsonl.zst"));
    refused(&folder.object(["-plan", "stranger.txt"], &[]));
    // The plan's key of the wrong kind: what is checked with it is the proof, which only the plan's key made.
    assert!(refused(&folder.object(["-plan", "recovery.txt"], &[])).contains("the proof is wrong"));
    let moved = folder.run(&[
        "document",
        "-plan",
        "plan.txt",
        "-wrapped",
        "c-1/p-1/b-2=b-1.age",
        "-key",
        OBJECT_KEY,
        "-sealed",
        "document",
    ]);
    assert!(refused(&moved).contains("is that of c-1/p-1/b-1"));
    // A file that a forger made for the right recipients.
    let forger = PlanKey::generate();
    let location: Location = "c-1/p-1/b-1".parse().unwrap();
    let mine = DataKey::generate(location);
    let file = wrap(&mine, &forger, &folder.recipients).unwrap();
    let output = folder.with("b-1.age", |bytes| *bytes = file, || folder.object(PLAN, &[]));
    assert!(refused(&output).contains("the proof is wrong"));
}

#[test]
fn the_second_reader_agrees_with_the_vectors() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors.json");
    let output = Command::new(second_reader())
        .arg("vectors")
        .arg(vectors)
        .output()
        .unwrap();
    read(&output, b"23 values as the vectors say\n");
}

/// The commands of `docs/FORMAT.md`, with nothing of ours.
#[test]
fn stock_tools_decrypt_by_hand() {
    let folder = Folder::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/by-hand.sh");
    let chapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/FORMAT.md");
    let block = format!("```sh\n{}```", std::fs::read_to_string(&script).unwrap());
    assert!(
        std::fs::read_to_string(chapter).unwrap().contains(&block),
        "the chapter prints other commands than were tried"
    );
    let by_hand = |identity: &str, command: &str| {
        Command::new("sh")
            .args(["-euc", &format!(". '{}'; {command}", script.display())])
            .env("IDENTITY", identity)
            .env("KEYS", ".")
            .current_dir(&folder.dir)
            .output()
            .unwrap()
    };
    for identity in ["plan.txt", "recovery.txt"] {
        read(
            &by_hand(identity, "open_object layout.json object"),
            &folder.object.plain,
        );
        read(
            &by_hand(identity, &format!("open_document '{OBJECT_KEY}' document")),
            &folder.document,
        );
    }
}
