use std::path::Path;
use std::time::Instant;
use vellum_core::name::Name;
use vellum_store::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = Path::new(&args[2]);
    if args[1] == "init" {
        let mut p = StoreParameters::DEFAULT;
        if let Some(l) = args.get(3) {
            p.compression = Compression::Zstd(l.parse().unwrap());
        }
        if let Some(f) = args.get(4) {
            p.frame_len = f.parse::<u32>().unwrap() << 10;
        }
        Store::init(dir, p).unwrap();
        return;
    }
    let t = Instant::now();
    let store = Store::open(dir, if args[1] == "ro" { Access::ReadOnly } else { Access::ReadWrite }, "try").unwrap();
    eprintln!("open {:?}", t.elapsed());
    let t = Instant::now();
    match args[1].as_str() {
        "import" => {
            let input = Input::open(Path::new(&args[3]), vellum_core::formats::Format::Raw, None).unwrap();
            let parent = args.get(5).map(|p| store.find(p).unwrap());
            let r = store
                .import(
                    input,
                    &ImportRequest { target: ImportTarget::New { name: Name::new(&args[4]).unwrap(), parent }, snapshot: None },
                    &Unwatched,
                )
                .unwrap();
            let s = t.elapsed().as_secs_f64();
            println!("{s:.3} s {:.0} MB/s {r:?}", r.read_bytes as f64 / 1e6 / s);
        }
        "export" => {
            let r = store
                .export(store.find(&args[3]).unwrap(), ExportTarget::File { path: args[4].clone().into(), overwrite: true }, &Unwatched)
                .unwrap();
            let s = t.elapsed().as_secs_f64();
            println!("{s:.3} s {:.0} MB/s {r:?}", r.data_bytes as f64 / 1e6 / s);
        }
        _ => {}
    }
    let t = Instant::now();
    drop(store);
    eprintln!("close {:?}", t.elapsed());
}
