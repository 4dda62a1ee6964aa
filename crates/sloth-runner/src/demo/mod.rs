//! demo
pub fn run() -> i32 {
    1
}
