//! Addresses of the console, in one place, so that a link cannot be misspelt.

pub(crate) const NAMESPACES: &str = "/namespaces";
pub(crate) const TARGETS: &str = "/targets";
pub(crate) const TARGET_NEW: &str = "/targets/new";
pub(crate) const PLANS: &str = "/backupplans";
pub(crate) const PLAN_NEW: &str = "/backupplans/new";
pub(crate) const BACKUPS: &str = "/backups";
pub(crate) const RESTORES: &str = "/restores";
pub(crate) const SIGN_IN: &str = "/sign-in";

/// A target's page.
pub(crate) fn target(namespace: &str, name: &str) -> String {
    format!("{TARGETS}/{namespace}/{name}")
}

/// A plan's page.
pub(crate) fn plan(namespace: &str, name: &str) -> String {
    format!("{PLANS}/{namespace}/{name}")
}

/// A backup's page.
pub(crate) fn backup(namespace: &str, name: &str) -> String {
    format!("{BACKUPS}/{namespace}/{name}")
}

/// A restore's page.
pub(crate) fn restore(namespace: &str, name: &str) -> String {
    format!("{RESTORES}/{namespace}/{name}")
}

/// The form for a plan of this namespace.
pub(crate) fn protect(namespace: &str) -> String {
    format!("{PLAN_NEW}?namespace={namespace}")
}

/// The backups of one namespace.
pub(crate) fn backups_of(namespace: &str) -> String {
    format!("{BACKUPS}?namespace={namespace}")
}

/// Where to go after signing in: a path of this console and nothing else, so that a crafted link cannot lead
/// elsewhere.
pub(crate) fn safe_next(next: Option<&str>) -> String {
    match next {
        Some(path)
            if path.starts_with('/')
                && !path.starts_with("//")
                && !path.starts_with(SIGN_IN)
                && !path.contains(['\\', '\t', '\n', '\r']) =>
        {
            path.to_owned()
        }
        _ => NAMESPACES.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_the_console_are_followed() {
        assert_eq!(
            safe_next(Some("/backups/shop/b1?tab=yaml")),
            "/backups/shop/b1?tab=yaml"
        );
        for bad in [
            None,
            Some(""),
            Some("//evil.example"),
            Some("https://evil.example"),
            Some("/\\evil"),
            Some("/sign-in"),
        ] {
            assert_eq!(safe_next(bad), NAMESPACES, "{bad:?}");
        }
    }
}
