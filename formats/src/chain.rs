//! Images that stand on each other, as one: where the top says nothing, the next below is asked.
//!
//! It knows no names: whoever found the files gives them. Layers may differ
//! in length; what lies behind a layer's end is zeros, whatever those below it hold (as in qemu).

use std::sync::Arc;

use crate::{Companions, Format, ImageFacts, ParentReference, image_facts, open_over_parent};
use vellum_core::source::{ClusterDecoder, Extent, ExtentKind, ImageSource, ReadAt, SourceError};

/// The deepest chain. Each read may ask every layer; VirtualBox and qemu get slow long before.
pub const CHAIN_LAYERS_MAX: usize = 1024;

/// A file of a chain: its format, and its bytes.
pub type ChainFile = (Format, Arc<dyn ReadAt>);

/// One opened file of a chain.
pub struct ChainLayer {
    /// The image, absent where its parent is to be asked.
    pub image: Arc<dyn ImageSource>,
    /// Facts from its headers.
    pub facts: ImageFacts,
}

/// Opens `top` and all that it stands on, top first. `find` gives the file that a child names, or
/// refuses; nothing is opened otherwise. A parent whose identity is not the one that the child
/// names is refused, and so is a chain that goes in a circle: it is too deep.
///
/// # Errors
///
/// As [`crate::open`], and what `find` says.
pub fn open_chain(
    top: ChainFile,
    decoder: &Arc<dyn ClusterDecoder>,
    companions: &dyn Companions,
    find: &mut dyn FnMut(&ParentReference) -> Result<ChainFile, SourceError>,
) -> Result<Vec<ChainLayer>, SourceError> {
    let (mut layers, mut next) = (Vec::new(), Some((top, None)));
    while let Some(((format, file), named)) = next.take() {
        if layers.len() >= CHAIN_LAYERS_MAX {
            return Err(too_deep(layers.len() + 1));
        }
        let facts = image_facts(format, Arc::clone(&file))?;
        verify_identity(format, named.as_ref(), &facts)?;
        let image = open_over_parent(format, file, Arc::clone(decoder), companions)?;
        if let Some(parent) = &facts.parent {
            next = Some((find(parent)?, Some(parent.clone())));
        }
        layers.push(ChainLayer {
            image: image.into(),
            facts,
        });
    }
    Ok(layers)
}

/// Refuses a file that is not the one its child was made on. Formats without identities have only
/// the name.
fn verify_identity(
    format: Format,
    named: Option<&ParentReference>,
    facts: &ImageFacts,
) -> Result<(), SourceError> {
    let Some(expected) = named.and_then(|named| named.identity) else {
        return Ok(());
    };
    match facts.identity {
        Some(found) if found != expected => Err(crate::refused(
            format.format_name(),
            format!("its child stands on the image {expected}, and this one is {found}"),
        )),
        _ => Ok(()),
    }
}

fn too_deep(count: usize) -> SourceError {
    crate::refused(
        "chain",
        format!("{count} layers, where 1 to {CHAIN_LAYERS_MAX} can be read: is it a circle?"),
    )
}

/// A chain of images, seen in one of two ways.
pub struct ImageChain {
    /// The top first.
    layers: Vec<Arc<dyn ImageSource>>,
    is_whole: bool,
}

impl ImageChain {
    /// The top layer over those below it: extents are the top's, and what it calls absent reads as
    /// what lies below. That is what a writer wants for a child.
    ///
    /// # Errors
    ///
    /// When there is no layer, or more than [`CHAIN_LAYERS_MAX`].
    pub fn for_child(layers: Vec<Arc<dyn ImageSource>>) -> Result<Self, SourceError> {
        Self::new(layers, false)
    }

    /// The layers as one disk that stands on nothing.
    ///
    /// # Errors
    ///
    /// As [`ImageChain::for_child`].
    pub fn for_whole_disk(layers: Vec<Arc<dyn ImageSource>>) -> Result<Self, SourceError> {
        Self::new(layers, true)
    }

    fn new(layers: Vec<Arc<dyn ImageSource>>, is_whole: bool) -> Result<Self, SourceError> {
        if layers.is_empty() || layers.len() > CHAIN_LAYERS_MAX {
            return Err(too_deep(layers.len()));
        }
        Ok(Self { layers, is_whole })
    }

    fn top_layer(&self) -> &dyn ImageSource {
        &**self.layers.first().expect("a chain has a layer")
    }

    /// The layer that has the byte at `offset`, what it is there, and up to where.
    fn resolve_at(&self, offset: u64, end: u64) -> Result<(&dyn ImageSource, Extent), SourceError> {
        let mut end = end;
        for layer in &self.layers {
            if offset >= layer.len() {
                return Ok((&**layer, make_extent(offset, end, ExtentKind::Zero)));
            }
            let found = layer.extent_at(offset)?;
            end = end.min(found.end_offset());
            if found.kind != ExtentKind::Absent {
                return Ok((&**layer, make_extent(offset, end, found.kind)));
            }
        }
        Ok((
            self.top_layer(),
            make_extent(offset, end, ExtentKind::Absent),
        ))
    }
}

fn make_extent(start: u64, end: u64, kind: ExtentKind) -> Extent {
    Extent {
        start,
        len: end - start,
        kind,
    }
}

impl ImageSource for ImageChain {
    fn len(&self) -> u64 {
        self.top_layer().len()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        if self.is_whole {
            Ok(self.resolve_at(offset, self.len())?.1)
        } else {
            self.top_layer().extent_at(offset)
        }
    }

    fn left_behind(&self) -> Vec<String> {
        self.top_layer().left_behind()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let (mut rest, mut offset) = (buffer, offset);
        while !rest.is_empty() {
            let (layer, extent) = self.resolve_at(offset, offset + rest.len() as u64)?;
            let (part, after) = rest.split_at_mut(extent.len as usize);
            if extent.kind == ExtentKind::Data {
                layer.read_at(part, offset)?;
            } else {
                part.fill(0);
            }
            offset += extent.len;
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Patchwork;
    use ExtentKind::{Absent, Data, Zero};

    #[test]
    fn zero_hides_what_absent_shows() {
        let layers: Vec<Arc<dyn ImageSource>> = vec![
            Arc::new(Patchwork::new(&[
                (10, Data),
                (10, Absent),
                (10, Zero),
                (20, Absent),
            ])),
            Arc::new(Patchwork::new(&[(15, Absent), (20, Data)])),
            Arc::new(Patchwork::new(&[(50, Data)])),
        ];
        let kinds = |chain: &ImageChain| {
            let (mut told, mut at) = (Vec::new(), 0);
            while at < chain.len() {
                let extent = chain.extent_at(at).expect("told");
                told.push((extent.len, extent.kind));
                at = extent.end_offset();
            }
            told
        };
        let child = ImageChain::for_child(layers.clone()).expect("three layers");
        let whole = ImageChain::for_whole_disk(layers.clone()).expect("three layers");
        assert_eq!(
            kinds(&child),
            [(10, Data), (10, Absent), (10, Zero), (20, Absent)]
        );
        assert_eq!(
            kinds(&whole),
            [
                (10, Data),
                (5, Data),
                (5, Data),
                (10, Zero),
                (5, Data),
                (15, Zero)
            ],
            "behind the end of the second layer nothing of the third is seen"
        );
        for chain in [&child, &whole] {
            let mut bytes = [1; 50];
            chain.read_at(&mut bytes, 0).expect("read");
            let expected = |at: usize, layer: usize| layers[layer].clone().read_byte(at);
            assert_eq!(bytes[12], expected(12, 2));
            assert_eq!(bytes[17], expected(17, 1));
            assert_eq!(bytes[32], expected(32, 1));
            assert!(
                bytes[20..30]
                    .iter()
                    .chain(&bytes[35..])
                    .all(|byte| *byte == 0)
            );
        }
    }

    #[test]
    fn a_chain_has_a_limit() {
        let layer: Arc<dyn ImageSource> = Arc::new(Patchwork::new(&[(512, Absent)]));
        assert!(ImageChain::for_whole_disk(vec![Arc::clone(&layer); CHAIN_LAYERS_MAX]).is_ok());
        assert!(ImageChain::for_whole_disk(vec![layer; CHAIN_LAYERS_MAX + 1]).is_err());
        assert!(ImageChain::for_child(Vec::new()).is_err());
    }

    trait ReadByte {
        fn read_byte(&self, at: usize) -> u8;
    }

    impl ReadByte for dyn ImageSource {
        fn read_byte(&self, at: usize) -> u8 {
            let mut byte = [0];
            self.read_at(&mut byte, at as u64).expect("read");
            byte[0]
        }
    }
}
