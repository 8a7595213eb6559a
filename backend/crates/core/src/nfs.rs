//! Exports and mount options of NFS, as a Target names them. What is not known to be harmless is refused: the node mounts it
//! with its own rights.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest path of an export, in bytes.
const MAX_PATH: usize = 1024;

/// Set on every mount: what lies on an export is data.
const ALWAYS: [&str; 3] = ["nosuid", "nodev", "noexec"];

/// Options without a value.
const FLAGS: [&str; 21] = [
    "ac",
    "async",
    "cto",
    "fg",
    "hard",
    "lock",
    "migration",
    "noac",
    "noatime",
    "nodiratime",
    "nomigration",
    "nordirplus",
    "noresvport",
    "nosharecache",
    "rdirplus",
    "relatime",
    "resvport",
    "rw",
    "soft",
    "softerr",
    "sync",
];

/// Options whose value is a number.
const NUMBERS: [&str; 15] = [
    "acdirmax",
    "acdirmin",
    "acregmax",
    "acregmin",
    "actimeo",
    "max_connect",
    "minorversion",
    "mountport",
    "nconnect",
    "port",
    "retrans",
    "retry",
    "rsize",
    "timeo",
    "wsize",
];

/// Options whose value is one of a few words.
const WORDS: [(&str, &[&str]); 8] = [
    ("lookupcache", &["all", "none", "pos", "positive"]),
    ("mountproto", &["tcp", "tcp6", "udp", "udp6"]),
    ("mountvers", &["3"]),
    ("nfsvers", &["3", "4", "4.0", "4.1", "4.2"]),
    ("proto", &["tcp", "tcp6", "rdma", "rdma6"]),
    ("sec", &["sys", "krb5", "krb5i", "krb5p"]),
    ("vers", &["3", "4", "4.0", "4.1", "4.2"]),
    ("xprtsec", &["none", "tls", "mtls"]),
];

/// Options that are known and would lose data, with the reason.
const HARMFUL: [(&str, &str); 4] = [
    ("ro", "backups are written there"),
    (
        "nolock",
        "then two pods on different nodes do not keep out of each other's way",
    ),
    (
        "local_lock",
        "then two pods on different nodes do not keep out of each other's way",
    ),
    (
        "nocto",
        "then a pod does not see what one on another node has written",
    ),
];

/// A folder of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Name or address, an IPv6 address without brackets.
    pub server: String,
    /// Absolute path.
    pub path: String,
}

impl Export {
    /// Reads `server:/path`.
    ///
    /// # Errors
    /// Says what is wrong and what to write; shows nothing of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || "write it as server:/path, with an IPv6 address in brackets".to_owned();
        let (server, path) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once("]:").ok_or_else(form)?,
            None => text.split_once(':').ok_or_else(form)?,
        };
        check_server(server, text.starts_with('['))?;
        check_path(path)?;
        Ok(Self {
            server: server.to_owned(),
            path: path.to_owned(),
        })
    }
}

impl std::fmt::Display for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { server, path } = self;
        match server.contains(':') {
            true => write!(f, "[{server}]:{path}"),
            false => write!(f, "{server}:{path}"),
        }
    }
}

fn check_server(server: &str, bracketed: bool) -> Result<(), String> {
    let itself =
        "the server must not be the node itself: what is mounted would be another folder on each node";
    if bracketed {
        let address: Ipv6Addr = server
            .parse()
            .map_err(|_| "what stands in brackets is no IPv6 address".to_owned())?;
        return match address.to_canonical() {
            found if found.is_loopback() || found.is_unspecified() => Err(itself.to_owned()),
            _ => Ok(()),
        };
    }
    if let Ok(address) = server.parse::<Ipv4Addr>() {
        return match address.is_loopback() || address.is_unspecified() {
            true => Err(itself.to_owned()),
            false => Ok(()),
        };
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // What the resolver would take for an address in an old way of writing, such as 127.1, is no name.
    let number = server
        .rsplit('.')
        .next()
        .is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit()));
    if server.len() > 253 || number || !server.split('.').all(label) {
        return Err("the server is neither a host name nor an address".to_owned());
    }
    let lower = server.to_ascii_lowercase();
    if lower == "localhost" || lower.ends_with(".localhost") || lower.starts_with("localhost.") {
        return Err(itself.to_owned());
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), String> {
    let plain = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b'@' | b'+' | b'=' | b'~')
    };
    let inner = path.strip_prefix('/').unwrap_or_default();
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let part = |part: &str| !matches!(part, "" | "." | "..");
    if !path.starts_with('/') || (!inner.is_empty() && !inner.split('/').all(part)) {
        return Err("the path must be absolute, without empty parts, `.` and `..`".to_owned());
    }
    if path.len() > MAX_PATH || !path.bytes().all(plain) {
        return Err(format!(
            "the path must have at most {MAX_PATH} letters, digits and characters of /._-@+=~"
        ));
    }
    Ok(())
}

/// The options of a mount, from text with commas between them.
///
/// # Errors
/// Names the first option that is not taken, and why.
pub fn mount_options(text: Option<&str>) -> Result<Vec<String>, String> {
    let mut options = Vec::new();
    let mut names = Vec::new();
    for option in text.into_iter().flat_map(|text| text.split(',')).map(str::trim) {
        let name = check_option(option)?;
        if names.contains(&name) {
            return Err(format!("{name} is given twice"));
        }
        names.push(name);
        if !ALWAYS.contains(&option) {
            options.push(option.to_owned());
        }
    }
    options.extend(ALWAYS.map(str::to_owned));
    Ok(options)
}

/// Gives the option's name.
fn check_option(option: &str) -> Result<&str, String> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    if let Some((_, why)) = HARMFUL.iter().find(|(harmful, _)| *harmful == name) {
        return Err(format!("{name} is not taken: {why}"));
    }
    let words = WORDS.iter().find(|(known, _)| *known == name);
    let good = match value {
        None => FLAGS.contains(&name) || ALWAYS.contains(&name),
        Some(value) if NUMBERS.contains(&name) => {
            (1..=9).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit())
        }
        Some(value) => words.is_some_and(|(_, words)| words.contains(&value)),
    };
    if good {
        return Ok(name);
    }
    Err(match (words, NUMBERS.contains(&name)) {
        (Some((_, words)), _) => format!("{name} must be one of {}", words.join(", ")),
        (None, true) => format!("{name} needs a number"),
        (None, false) => {
            let shown: String = option.chars().filter(char::is_ascii_graphic).take(40).collect();
            format!("{shown:?} is none of the options that are taken; leave it out")
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exports_are_a_server_and_an_absolute_path() {
        for good in [
            "nas:/",
            "nas.example.com:/srv/backups/",
            "192.0.2.1:/export/kube_data-1",
            "[2001:db8::1]:/x",
        ] {
            assert_eq!(Export::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "nas",
            "nas:",
            "nas:relative",
            ":/x",
            "nas:/a/../b",
            "nas:/a//b",
            "nas:/.",
            "nas:/a b",
            "nas:/a,rw",
            "na s:/x",
            "-o:/x",
            "nas;rm:/x",
            "2001:db8::1:/x",
            "[nas]:/x",
            "[::1]:/x",
            "[::ffff:127.0.0.1]:/x",
            "127.0.0.1:/x",
            "0.0.0.0:/x",
            "localhost:/x",
            "LOCALHOST:/x",
            "127.1:/x",
            "0x7f.1:/x",
            "nas:/\n",
            "nas:/\u{e4}",
        ] {
            assert!(Export::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn options_are_known_ones_and_every_mount_is_of_data() {
        let options = |text: &str| mount_options(Some(text));
        assert_eq!(mount_options(None).unwrap(), ALWAYS);
        assert_eq!(
            options("nfsvers=4.1, hard,timeo=600,nosuid").unwrap(),
            ["nfsvers=4.1", "hard", "timeo=600", "nosuid", "nodev", "noexec"]
        );
        for (bad, why) in [
            ("suid", "none of"),
            ("dev", "none of"),
            ("context=x", "none of"),
            ("ro", "written"),
            ("nolock", "different nodes"),
            ("local_lock=all", "different nodes"),
            ("nfsvers=2", "one of 3, 4"),
            ("nfsvers", "one of"),
            ("timeo=-1", "number"),
            ("hard=1", "none of"),
            ("hard,hard", "twice"),
            ("nosuid,nosuid", "twice"),
            ("", "none of"),
            ("hard,,soft", "none of"),
            ("hard\nexec", "none of"),
        ] {
            let refused = options(bad).unwrap_err();
            assert!(refused.contains(why), "{bad:?}: {refused}");
        }
    }

    proptest! {
        /// Whatever is written: what is taken consists of options that were looked at, and sets the three.
        #[test]
        fn nothing_unknown_gets_through(text in "[a-z=,0-9. ]{0,60}") {
            if let Ok(options) = mount_options(Some(&text)) {
                prop_assert!(ALWAYS.iter().all(|a| options.iter().any(|o| o == a)));
                for option in options {
                    prop_assert!(check_option(&option).is_ok());
                }
            }
        }

        #[test]
        fn what_is_parsed_is_written_as_it_was(text in "[a-z0-9.\\-:/\\[\\]_]{0,40}") {
            if let Ok(export) = Export::parse(&text) {
                prop_assert_eq!(export.to_string(), text);
            }
        }
    }
}
