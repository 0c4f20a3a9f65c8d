//! `vellum-deep STORE PARENT NAME DEPTH`: makes the image NAME, a child of PARENT, with DEPTH
//! layers of one written chunk each. The bench of guests' requests reads from such images.

use std::path::Path;

use vellum_benches::{deepen, name};
use vellum_store::{Access, Store};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, parent, image, depth] = arguments.as_slice() else {
        panic!("STORE PARENT NAME DEPTH")
    };
    let store = Store::open_dir(Path::new(dir), Access::ReadWrite, "bench")
        .expect("a store that nobody writes to");
    let parent = store.find_node(parent).expect("an image or snapshot");
    let image = store
        .create_child(&name(image), parent, None)
        .expect("a name that is free")
        .image_id();
    drop(deepen(&store, image, depth.parse().expect("a number")));
}
