//! A user's service that ends at once, with code 3.

fn main() {
    std::process::exit(3);
}
