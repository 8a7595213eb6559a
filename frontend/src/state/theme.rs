//! Light, dark, or as the system says; kept in the browser.

use leptos::prelude::*;

/// Key in the browser's storage; `theme.js` reads it before the first paint.
const KEY: &str = "holdfast.theme";

/// The chosen theme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    System,
    Light,
    Dark,
}

impl Theme {
    fn word(self) -> Option<&'static str> {
        match self {
            Self::System => None,
            Self::Light => Some("light"),
            Self::Dark => Some("dark"),
        }
    }

    /// Name for people.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::System => "System",
            Self::Light => "Light",
            Self::Dark => "Dark",
        }
    }
}

/// The theme, shared by everything.
#[derive(Clone, Copy)]
pub(crate) struct ThemeStore(RwSignal<Theme>);

impl ThemeStore {
    /// Reads the choice kept in the browser.
    pub(crate) fn load() -> Self {
        let kept = storage().and_then(|storage| storage.get_item(KEY).ok().flatten());
        Self(RwSignal::new(match kept.as_deref() {
            Some("light") => Theme::Light,
            Some("dark") => Theme::Dark,
            _ => Theme::System,
        }))
    }

    pub(crate) fn get(self) -> Theme {
        self.0.get()
    }

    /// Applies and keeps a choice. Without storage it holds until the page is left.
    pub(crate) fn set(self, theme: Theme) {
        self.0.set(theme);
        if let Some(root) = document().document_element() {
            let _ = match theme.word() {
                Some(word) => root.set_attribute("data-theme", word),
                None => root.remove_attribute("data-theme"),
            };
        }
        if let Some(storage) = storage() {
            let _ = match theme.word() {
                Some(word) => storage.set_item(KEY, word),
                None => storage.remove_item(KEY),
            };
        }
    }
}

fn storage() -> Option<web_sys::Storage> {
    window().local_storage().ok().flatten()
}
