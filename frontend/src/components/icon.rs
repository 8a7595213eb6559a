//! Icons: strokes on a 16-unit grid, drawn for this console.

use leptos::prelude::*;

/// What an icon stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Icon {
    Archive,
    Bucket,
    Check,
    Clock,
    Close,
    Copy,
    Cross,
    Dash,
    Key,
    Moon,
    Plan,
    Play,
    Plus,
    Restore,
    Search,
    Shield,
    SignOut,
    Spinner,
    Stop,
    Sun,
    System,
    Trash,
    Warning,
}

impl Icon {
    fn path(self) -> &'static str {
        match self {
            Self::Archive => "M2.5 3.5h11v3h-11zM3.5 6.5v6h9v-6M6.5 9h3",
            Self::Bucket => {
                "M2.5 4.5l1.2 8.2c.1.5.5.8 1 .8h6.6c.5 0 .9-.3 1-.8l1.2-8.2M2.5 4.5c0-1.1 2.5-2 5.5-2s5.5.9 5.5 2-2.5 2-5.5 2-5.5-.9-5.5-2z"
            }
            Self::Check => "M3.5 8.5l3 3 6-7",
            Self::Clock => "M8 2.5a5.5 5.5 0 100 11 5.5 5.5 0 000-11zM8 5v3.2l2.2 1.3",
            Self::Close => "M4 4l8 8M12 4l-8 8",
            Self::Copy => "M5.5 5.5h7v8h-7zM10.5 5.5v-3h-7v8h2",
            Self::Cross => "M4.5 4.5l7 7M11.5 4.5l-7 7",
            Self::Dash => "M4 8h8",
            Self::Key => {
                "M10.2 2.5a3.3 3.3 0 00-3.1 4.4L2.5 11.5v2h2.3v-1.6h1.6v-1.6h1.1l1.1-1.1a3.3 3.3 0 101.6-6.7zM10.9 5.2h.1"
            }
            Self::Moon => "M12.8 9.7A5.3 5.3 0 016.3 3.2a5.3 5.3 0 106.5 6.5z",
            Self::Plan => "M3.5 2.5h9v11h-9zM6 5.5h4M6 8h4M6 10.5h2.5",
            Self::Play => "M5 3.5l7 4.5-7 4.5z",
            Self::Plus => "M8 3.5v9M3.5 8h9",
            Self::Restore => "M3 4v3h3M3.3 7A5 5 0 1113 9M8 5.5V8l1.8 1.2",
            Self::Search => "M7 2.8a4.2 4.2 0 100 8.4 4.2 4.2 0 000-8.4zM10.2 10.2l3.3 3.3",
            Self::Shield => "M8 2.2l5 1.8v3.8c0 3-2.1 5-5 6-2.9-1-5-3-5-6V4z",
            Self::SignOut => "M6.5 2.8h-3.5v10.4h3.5M7 8h6.5M11 5.5L13.5 8 11 10.5",
            Self::Spinner => "M8 2.5a5.5 5.5 0 015.5 5.5",
            Self::Stop => "M4.5 4.5h7v7h-7z",
            Self::Sun => {
                "M8 5.2a2.8 2.8 0 100 5.6 2.8 2.8 0 000-5.6zM8 1.8v1.2M8 13v1.2M1.8 8H3M13 8h1.2M3.6 3.6l.9.9M11.5 11.5l.9.9M3.6 12.4l.9-.9M11.5 4.5l.9-.9"
            }
            Self::System => "M2.5 3.5h11v7.5h-11zM6 13.5h4M8 11v2.5",
            Self::Trash => "M3 4.5h10M6 4.5v-2h4v2M4.2 4.5l.6 9h6.4l.6-9M6.8 7v4M9.2 7v4",
            Self::Warning => "M8 2.5l6 10.8H2zM8 6.5v3.2M8 11.6v.1",
        }
    }
}

/// An icon; it says nothing to a screen reader, the text beside it does.
#[component]
pub(crate) fn Glyph(#[prop(into)] icon: Signal<Icon>) -> impl IntoView {
    view! {
        <svg class="glyph" class:spin=move || icon.get() == Icon::Spinner viewBox="0 0 16 16" aria-hidden="true">
            <path d=move || icon.get().path() />
        </svg>
    }
}
