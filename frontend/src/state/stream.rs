//! One connection to the event stream, with what the browser tells of it.

use holdfast_shared::ServerEvent;
use leptos::logging::warn;
use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;
use web_sys::{Event, EventSource, MessageEvent};

/// What happens on a connection.
#[derive(Debug)]
pub(crate) enum Signal {
    /// The server answered.
    Opened,
    /// A message came.
    Message(Box<ServerEvent>),
    /// The connection broke or was refused; the browser does not say which.
    Broken,
}

/// An open connection; dropping it closes it.
pub(crate) struct Stream {
    source: EventSource,
    _callbacks: [Closure<dyn FnMut(Event)>; 3],
}

impl Stream {
    /// Opens the stream at this address. The browser's own way to connect again is not used: it hides that the
    /// connection is lost and gives up on some answers for ever.
    pub(crate) fn open(url: &str, on: impl Fn(Signal) + Clone + 'static) -> Option<Self> {
        let source = EventSource::new(url).ok()?;
        let opened = {
            let on = on.clone();
            Closure::<dyn FnMut(Event)>::new(move |_| on(Signal::Opened))
        };
        let message = {
            let on = on.clone();
            Closure::<dyn FnMut(Event)>::new(move |event: Event| {
                let text = event
                    .unchecked_into::<MessageEvent>()
                    .data()
                    .as_string()
                    .unwrap_or_default();
                match serde_json::from_str(&text) {
                    Ok(event) => on(Signal::Message(Box::new(event))),
                    Err(e) => warn!("an event could not be read: {e}"),
                }
            })
        };
        let broken = Closure::<dyn FnMut(Event)>::new(move |_| on(Signal::Broken));
        source.set_onopen(Some(opened.as_ref().unchecked_ref()));
        source.set_onmessage(Some(message.as_ref().unchecked_ref()));
        source.set_onerror(Some(broken.as_ref().unchecked_ref()));
        Some(Self {
            source,
            _callbacks: [opened, message, broken],
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.source.set_onopen(None);
        self.source.set_onmessage(None);
        self.source.set_onerror(None);
        self.source.close();
    }
}
