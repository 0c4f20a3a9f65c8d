//! The options that choose among the points of a repository.

use vellum_backup::forget::PointFilter;
use vellum_backup::record::Point;

use super::address;
use crate::failure::CommandFailure;
use crate::retention_args::parse_tag_list;

/// The points that are meant, by host and tags.
#[derive(clap::Args)]
pub(crate) struct PointFilterArgs {
    /// Only points of this machine
    #[arg(long, value_name = "HOST", help_heading = "Options")]
    pub(crate) host: Option<String>,
    /// Only points that have all of these tags; may come several times, for those of either
    #[arg(
        id = "point-tags",
        long = "tag",
        value_name = "TAG,…",
        help_heading = "Options"
    )]
    tags: Vec<String>,
}

impl PointFilterArgs {
    /// The filter, for points of all images.
    pub(crate) fn filter(&self) -> Result<PointFilter, CommandFailure> {
        let list = |text: &String| {
            let tags = parse_tag_list(text)?;
            Ok(tags.iter().map(ToString::to_string).collect())
        };
        Ok(PointFilter {
            images: None,
            host: self.host.clone(),
            tags: self
                .tags
                .iter()
                .map(list)
                .collect::<Result<_, CommandFailure>>()?,
        })
    }

    /// Those of `points` that are meant. That a host has none is an error.
    pub(crate) fn choose<'a>(
        &self,
        points: Vec<&'a Point>,
    ) -> Result<Vec<&'a Point>, CommandFailure> {
        let mut points = address::of_host(points, self.host.as_deref())?;
        let filter = self.filter()?;
        points.retain(|point| filter.accepts(point));
        Ok(points)
    }
}
