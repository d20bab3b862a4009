//! A `vector_boot` of another time: it answers, and takes another record.

fn main() {
    println!("vector_boot handover 1 state 1");
}
