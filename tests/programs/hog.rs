//! A service that eats all its memory the second time it is started, and else does nothing.

use std::fs;

/// More than the service may have.
const BYTES: usize = 96 << 20;

fn main() {
    let starts = fs::read("/tmp/starts").map_or(1, |text| text.len() + 1);
    fs::write("/tmp/starts", vec![b'x'; starts]).expect("count the start");
    if starts == 2 {
        println!("about to eat");
        // Written to, page by page: what is only promised costs nothing.
        let mut eaten = vec![0u8; BYTES];
        eaten.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        println!("ate {}", eaten.iter().map(|b| usize::from(*b)).sum::<usize>());
    }
    loop {
        std::thread::park();
    }
}
