"""Where in a picture each phrase of its prompt is: heatmaps, masks, balanced generation, editing.

Sources: Zhou et al., *ELBO-T2IAlign* (arXiv 2506.09740); Tang et al., *What the DAAM* (2210.04885); Chefer et al.,
*Attend-and-Excite* (2301.13826); Hertz et al., *Prompt-to-Prompt* (2208.01626).
"""
