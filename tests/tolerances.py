"""The one table of tolerances: a bound that has to be loosened is loosened here, with its reason beside it."""

# Motion and geometry
ROUND_TRIP_M = 1e-4  # positions -> features -> positions, float32, metres
BATCHED_KINEMATICS = 1e-5  # batched inverse kinematics against a plain loop over the bones
ROTATION_FLOAT32 = 1e-5  # entries of rotations, float32
ROTATION_FLOAT64 = 1e-10  # entries of rotations, float64
CROPPED_PROJECTION = 1e-5  # cropping clip and camera and projecting, against cropping the projection
RAY_IS_TRANSVERSE = 1e-10  # squared distance to the ray against squared transverse error, float64, m^2

# The objective
EXACT_LOSS = 1e-8  # any term of an exact prediction
BATCH_INDEPENDENCE = 1e-6  # the loss of a clip alone against the same clip in a batch
DEPTH_WEIGHT_SPREAD = 0.04  # depth-weighted loss over |e_perp|^2, distance from 1 between 2 and 10 m

# Hosts
FEATURES_AGAINST_MDM = 5e-4  # entries of the vector; MDM computes shortest arcs in float32
EQUAL_WEIGHTS = 1e-5  # outputs of two models with equal weights, float32
