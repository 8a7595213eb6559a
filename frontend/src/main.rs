//! Entry of the console in the browser.

fn main() {
    holdfast_console::run();
}
