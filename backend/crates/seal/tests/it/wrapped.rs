//! Wrapped keys, with Debian's `age` as the outside judge and as the forger.

use std::io::Write as _;
use std::process::{Command, Stdio};

use holdfast_seal::{
    DataKey, Location, MAX_WRAPPED, PlanKey, Recipient, RecoveryKey, RewrapError, UnwrapError, WrapError,
    rewrap, unwrap_with_plan, unwrap_with_recovery, wrap,
};
use proptest::collection::vec;
use proptest::prelude::*;
use secrecy::ExposeSecret as _;

const LOCATION: &str = "c-1/p-1/b-1";

fn location() -> Location {
    LOCATION.parse().unwrap()
}

fn hex(key: &DataKey) -> String {
    key.to_hex().expose_secret().to_owned()
}

struct Sample {
    key: DataKey,
    plan: PlanKey,
    recovery: RecoveryKey,
    file: Vec<u8>,
}

impl Sample {
    fn new() -> Self {
        let key = DataKey::generate(location());
        let (plan, recovery) = (PlanKey::generate(), RecoveryKey::generate());
        let file = wrap(&key, &plan, &[recovery.recipient()]).unwrap();
        Self {
            key,
            plan,
            recovery,
            file,
        }
    }
}

/// Runs Debian's `age`.
pub(crate) fn age(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("age")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`age` runs (package age)");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "age {arguments:?}");
    output.stdout
}

fn encrypt(content: &str, recipients: &[Recipient]) -> Vec<u8> {
    let recipients: Vec<String> = recipients.iter().map(Recipient::to_string).collect();
    let arguments: Vec<&str> = recipients.iter().flat_map(|text| ["-r", text]).collect();
    age(&arguments, content.as_bytes())
}

fn decrypt(file: &[u8], identity: &str) -> String {
    let mut identity_file = tempfile::NamedTempFile::new().unwrap();
    writeln!(identity_file, "# comment\n{identity}").unwrap();
    let path = identity_file.path().to_str().unwrap();
    String::from_utf8(age(&["-d", "-i", path], file)).unwrap()
}

#[test]
fn both_recipients_unwrap_and_others_do_not() {
    let sample = Sample::new();
    let unwrapped = unwrap_with_plan(&sample.file, &location(), &sample.plan).unwrap();
    assert_eq!(hex(&unwrapped), hex(&sample.key));
    assert_eq!(unwrapped.location(), sample.key.location());
    let recovered = unwrap_with_recovery(&sample.file, &location(), &sample.recovery).unwrap();
    assert_eq!(hex(&recovered.accept_unproven_origin()), hex(&sample.key));
    assert_eq!(
        unwrap_with_plan(&sample.file, &location(), &PlanKey::generate()).unwrap_err(),
        UnwrapError::WrongKey
    );
    assert_eq!(
        unwrap_with_recovery(&sample.file, &location(), &RecoveryKey::generate()).unwrap_err(),
        UnwrapError::WrongKey
    );
    assert!(!String::from_utf8_lossy(&sample.file).contains("b-1"));
}

#[test]
fn stock_age_reads_it_with_either_key() {
    let sample = Sample::new();
    let texts = [sample.plan.to_text(), sample.recovery.to_text()];
    for text in &texts {
        let line = decrypt(&sample.file, text.expose_secret());
        assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line:?}");
        let content: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(content["format"], 1);
        assert_eq!(content["for"], LOCATION);
        assert_eq!(content["key"], hex(&sample.key));
        assert_eq!(content["proof"].as_str().unwrap().len(), 64);
    }
}

/// Somebody who can write to the target and knows both public keys brings a data key of his own.
#[test]
fn a_forged_file_is_refused_by_the_plan() {
    let sample = Sample::new();
    let recipients = [sample.plan.recipient(), sample.recovery.recipient()];
    let forger = PlanKey::generate();
    let mine = DataKey::generate(location());
    let file = wrap(&mine, &forger, &[RecoveryKey::generate().recipient()]).unwrap();
    let line = decrypt(&file, forger.to_text().expose_secret());
    let forged = encrypt(&line, &recipients);
    assert_eq!(
        unwrap_with_plan(&forged, &location(), &sample.plan).unwrap_err(),
        UnwrapError::Forged(location())
    );
    assert_eq!(
        rewrap(
            &forged,
            &location(),
            &sample.plan,
            &PlanKey::generate(),
            &recipients[1..]
        )
        .unwrap_err(),
        RewrapError::Unwrap(UnwrapError::Forged(location()))
    );
    // With the recovery key alone nobody can tell: the type says so.
    let recovered = unwrap_with_recovery(&forged, &location(), &sample.recovery).unwrap();
    assert_eq!(hex(&recovered.accept_unproven_origin()), hex(&mine));
    // Our own line with the key of another backup in it.
    let line = decrypt(&sample.file, sample.plan.to_text().expose_secret());
    let exchanged = encrypt(&line.replace(&hex(&sample.key), &hex(&mine)), &recipients);
    assert_eq!(
        unwrap_with_plan(&exchanged, &location(), &sample.plan).unwrap_err(),
        UnwrapError::Forged(location())
    );
    // And our own line for another backup.
    let moved = encrypt(&line.replace("b-1", "b-2"), &recipients);
    let other: Location = "c-1/p-1/b-2".parse().unwrap();
    assert_eq!(
        unwrap_with_plan(&moved, &other, &sample.plan).unwrap_err(),
        UnwrapError::Forged(other)
    );
}

#[test]
fn a_file_belongs_to_its_backup() {
    let sample = Sample::new();
    for other in ["c-2/p-1/b-1", "c-1/p-2/b-1", "c-1/p-1/b-2"] {
        let other: Location = other.parse().unwrap();
        let expected = UnwrapError::OtherBackup {
            found: location(),
            expected: other.clone(),
        };
        let error = unwrap_with_plan(&sample.file, &other, &sample.plan).unwrap_err();
        assert_eq!(error, expected);
        let error = unwrap_with_recovery(&sample.file, &other, &sample.recovery).unwrap_err();
        assert_eq!(error, expected);
    }
}

#[test]
fn rotation_keeps_the_data_key() {
    let sample = Sample::new();
    let (plan, recovery) = (PlanKey::generate(), RecoveryKey::generate());
    let file = rewrap(
        &sample.file,
        &location(),
        &sample.plan,
        &plan,
        &[recovery.recipient(), sample.recovery.recipient()],
    )
    .unwrap();
    assert_eq!(
        hex(&unwrap_with_plan(&file, &location(), &plan).unwrap()),
        hex(&sample.key)
    );
    for recovery in [&recovery, &sample.recovery] {
        assert!(unwrap_with_recovery(&file, &location(), recovery).is_ok());
    }
    assert_eq!(
        unwrap_with_plan(&file, &location(), &sample.plan).unwrap_err(),
        UnwrapError::WrongKey
    );
    assert_eq!(
        rewrap(&file, &location(), &sample.plan, &plan, &[recovery.recipient()]).unwrap_err(),
        RewrapError::Unwrap(UnwrapError::WrongKey)
    );
}

#[test]
fn a_file_nobody_could_recover_is_not_made() {
    let sample = Sample::new();
    let wrap = |recovery: &[Recipient]| wrap(&sample.key, &sample.plan, recovery);
    let (own, other) = (sample.plan.recipient(), sample.recovery.recipient());
    assert_eq!(wrap(&[]).unwrap_err(), WrapError::NoRecovery);
    assert_eq!(
        wrap(std::slice::from_ref(&own)).unwrap_err(),
        WrapError::Duplicate(own)
    );
    assert_eq!(
        wrap(&[other.clone(), other.clone()]).unwrap_err(),
        WrapError::Duplicate(other)
    );
    let many: Vec<Recipient> = (0..17).map(|_| RecoveryKey::generate().recipient()).collect();
    assert_eq!(wrap(&many).unwrap_err(), WrapError::TooManyRecipients(17));
    assert!(wrap(&many[..16]).unwrap().len() <= MAX_WRAPPED / 4);
}

/// One bit of each byte: a header of age is authenticated as a whole, even the stanzas of others.
#[test]
fn each_byte_of_a_file_counts() {
    let sample = Sample::new();
    for at in 0..sample.file.len() {
        let mut changed = sample.file.clone();
        changed[at] ^= 1 << (at % 8);
        let error = unwrap_with_plan(&changed, &location(), &sample.plan).unwrap_err();
        assert!(
            !matches!(error, UnwrapError::Forged(_) | UnwrapError::OtherBackup { .. }),
            "byte {at}: {error}"
        );
    }
    for len in 0..sample.file.len() {
        let error = unwrap_with_plan(&sample.file[..len], &location(), &sample.plan).unwrap_err();
        assert!(
            matches!(error, UnwrapError::Truncated | UnwrapError::Damaged(_)),
            "{len}: {error}"
        );
    }
    let longer = [&sample.file[..], b"x"].concat();
    assert!(matches!(
        unwrap_with_plan(&longer, &location(), &sample.plan),
        Err(UnwrapError::Damaged(_))
    ));
}

#[test]
fn other_content_is_refused_by_its_reason() {
    let sample = Sample::new();
    let recipients = [sample.plan.recipient()];
    let line = decrypt(&sample.file, sample.plan.to_text().expose_secret());
    let unwrap = |content: &str| {
        unwrap_with_plan(&encrypt(content, &recipients), &location(), &sample.plan).map(|key| hex(&key))
    };
    // A later version may add fields; the format says when it must not be read.
    assert_eq!(
        unwrap(&line.replace("{\"format\"", "{\"new\":[{}],\"format\"")),
        Ok(hex(&sample.key))
    );
    assert_eq!(
        unwrap(&line.replace(":1,", ":2,")).unwrap_err(),
        UnwrapError::Version(2)
    );
    assert_eq!(
        unwrap("{\"format\":2,\"keys\":[]}").unwrap_err(),
        UnwrapError::Version(2)
    );
    let damaged = [
        String::new(),
        "not JSON".to_owned(),
        "{}".to_owned(),
        format!("{line}{line}"),
        line.replace("c-1/", ""),
        line.replace(&hex(&sample.key), "00"),
        line.replace(&hex(&sample.key), &format!("\\u0030{}", &hex(&sample.key)[1..])),
        line.replace("proof", "proo"),
        " ".repeat(5000),
        format!("{line}{}", " ".repeat(5000)),
        "x".repeat(4096),
    ];
    for content in damaged {
        let error = unwrap(&content).unwrap_err();
        assert!(matches!(error, UnwrapError::Damaged(_)), "{content:.200} {error}");
        assert!(!error.to_string().contains(&hex(&sample.key)));
    }
    let unwrap = |bytes: &[u8]| unwrap_with_plan(bytes, &location(), &sample.plan).unwrap_err();
    assert_eq!(unwrap(b"{\"format\":1}"), UnwrapError::NotWrapped);
    assert_eq!(unwrap(b"age-encryption.org/v2\n"), UnwrapError::NotWrapped);
    assert_eq!(
        unwrap(&vec![b'a'; MAX_WRAPPED + 1]),
        UnwrapError::TooLarge {
            found: MAX_WRAPPED + 1,
            limit: MAX_WRAPPED
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_refused(bytes in vec(any::<u8>(), 0..600), stanza in "(-> [!-~]{1,9}( [A-Za-z0-9+/]{0,50}){0,3}\n[A-Za-z0-9+/]{0,64}\n){0,4}(--- [A-Za-z0-9+/]{43}\n)?", kind in 0..3) {
        let file = match kind {
            0 => bytes,
            1 => [b"age-encryption.org/v1\n".as_slice(), &bytes].concat(),
            _ => [b"age-encryption.org/v1\n".as_slice(), stanza.as_bytes(), &bytes].concat(),
        };
        prop_assert!(unwrap_with_plan(&file, &location(), &PlanKey::generate()).is_err());
    }
}
