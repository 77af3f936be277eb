"""From videos: frames, a detector's keypoints, people, cameras, cuts, and the importer."""
