//! A user's own service: says that it runs, counts, and knows nothing of the machine that it runs on.

use std::io::Write;
use std::time::Duration;

fn main() {
    for count in 0_u64.. {
        println!("ticker: pid={} count={count}", std::process::id());
        // Nobody may be reading; a user's program goes on.
        let _ = std::io::stdout().flush();
        std::thread::sleep(Duration::from_millis(500));
    }
}
