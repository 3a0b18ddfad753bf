"""Open-vocabulary segmentation as a ROS 2 node."""
