"""The embedded synthetic world: procedural faces, a camera, small GAN generators and the data sets made from them."""
