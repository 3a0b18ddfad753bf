"""The package for `colcon build`."""

from setuptools import setup

setup(
    name="ovsdino_ros",
    version="0.1.0",
    packages=["ovsdino_ros"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/ovsdino_ros"]),
        ("share/ovsdino_ros", ["package.xml"]),
    ],
    license="Apache-2.0",
    entry_points={"console_scripts": ["segmentation_node = ovsdino_ros.segmentation_node:main"]},
)
